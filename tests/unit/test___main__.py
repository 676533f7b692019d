"""The help of each command, and exit statuses.

References: argparse, the modules of the package, and exit statuses by hand.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from vitas_ds import __main__ as cli
from vitas_ds.__main__ import COMMANDS, STAGES, TOOLS, main, parser
from vitas_ds.errors import Preempted, RankLost, UserError


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 0
    example, output = lines[lines.index("example:") + 1], lines[lines.index("output:") + 1]
    assert example.endswith(COMMANDS[name].example) and output == f"  {COMMANDS[name].output}"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    assert parser().parse_args(shlex.split(COMMANDS[name].example)).command == name


def test_every_command_has_a_module() -> None:
    root = os.path.dirname(cli.__file__)
    files = [f"stages/{name.replace('-', '_')}.py" for name in STAGES]
    files += [f"tools/{name.replace('-', '_')}.py" for name in TOOLS if name not in ("config", "import")]
    assert [file for file in files if not os.path.isfile(os.path.join(root, file))] == []


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from vitas_ds.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_overrides_after_an_option() -> None:
    args = cli.parse(parser(), ["train-supernet", "r", "a.b=1", "--replay", "file", "c.d=2"])
    assert (args.recipe, args.overrides, args.replay) == ("r", ["a.b=1", "c.d=2"], "file")
    for words in (["space", "r", "--no-such"], ["doctor", "a.b=1"], ["config", "r", "--world-size", "2", "word"]):
        with pytest.raises(SystemExit):
            cli.parse(parser(), words)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("a.b: wrong"), 2, "vitas doctor: a.b: wrong\n"),
        (Preempted("stopped"), 75, "vitas doctor: stopped\n"),
        (RankLost("printed before"), 69, ""),
        (KeyboardInterrupt(), 130, "vitas doctor: interrupted; start it again to resume\n"),
        (ModuleNotFoundError(name="onnx"), 2, "vitas doctor: onnx is not installed; python -m vitas_ds doctor lists"),
    ],
)
def test_exit_status(
    error: BaseException, status: int, line: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(cli, "run_tool", fail)
    assert main(["doctor"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith(line) and bool(printed) == bool(line)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ModuleNotFoundError(name="vitas_ds.no_such")

    monkeypatch.setattr(cli, "run_tool", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["doctor"])
