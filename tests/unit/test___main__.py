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
from vitas_ds.__main__ import main, parser
from vitas_ds.commands import COMMANDS, STAGES, TOOLS, path
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
    files += [f"tools/{name.replace('-', '_')}.py" for name in TOOLS if name not in ("config", "import", "elastic")]
    files += ["stages/elastic.py"]  # runs stages
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


def test_nothing_is_overwritten_without_force(tmp_path, capsys):
    (tmp_path / "a" / "class").mkdir(parents=True)
    (tmp_path / "a" / "class" / "x.jpg").write_bytes(b"no image")
    out = tmp_path / "list"
    argv = ["scan", str(tmp_path / "a"), "--threads", "1", "--write", str(out)]
    assert main(argv) == 1
    before = out.read_text()
    assert main(argv) == 2 and "exists already" in capsys.readouterr().err
    assert main([*argv, "--force"]) == 1 and out.read_text() == before
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    argv = ["import", "--net", "vitas-c", "--checkpoint", "x", "--out"]
    assert main([*argv, str(tmp_path / "model")]) == 2 and "exists already" in capsys.readouterr().err
    for force in ([], ["--force"]):  # it replaces an exported model, and no other folder
        assert main([*argv, str(tmp_path / "a"), *force]) == 2
        assert "is not an exported model (it has class)" in capsys.readouterr().err
    assert (tmp_path / "a" / "class" / "x.jpg").read_bytes() == b"no image"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed):
    """No other file gets the number of a closed stream, and the exit status stays the same."""
    code = (
        "import sys; from vitas_ds.__main__ import main; main(['--version']); sys.exit(open('/dev/null').fileno() < 3)"
    )
    for words, status in ((["-c", code], 0), (["-m", "vitas_ds", "runs", "nowhere"], 2)):
        command = f"{shlex.join([sys.executable, *words])} {closed}"
        assert subprocess.run(command, shell=True, capture_output=True, timeout=120).returncode == status


@pytest.mark.parametrize("words", [["doctor"], ["scan", "x"], ["train-supernet", "smoke"]])
def test_a_removed_current_folder(words, tmp_path):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__))}
    command = f"mkdir a && cd a && rmdir ../a && {shlex.join([sys.executable, '-m', 'vitas_ds', *words])}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    problem = "the current folder has been removed; change to another one with cd"
    assert (done.returncode, done.stderr) == (2, f"vitas {words[0]}: {problem}\n")


def test_a_library_that_raises_while_it_is_imported(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__)), "TORCH_LOGS": "banana"}
    command = [sys.executable, "-m", "vitas_ds", "import", "--checkpoint", "x", "--net", "vitas-c", "--out", "y"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and len(done.stderr) <= 300 + len("vitas import: \n")
    assert done.stderr.startswith("vitas import: torch cannot be imported (Invalid log settings: banana, ")


@pytest.mark.parametrize("words", [["runs"], ["completion", "bash"]])
def test_output_on_a_full_disk(words, tmp_path):
    (tmp_path / "runs").mkdir()
    command = shlex.join([sys.executable, "-m", "vitas_ds", *words])
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(cli.__file__))}
    done = subprocess.run(f"{command} >/dev/full", shell=True, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 74 and line.startswith(f"vitas {words[0]}: standard output: the disk is full; make space")


@pytest.mark.parametrize("name", COMMANDS)
def test_empty_arguments(name, capsys):
    """As in ``--out "$UNSET"``. Path("") would be the current folder."""
    words = shlex.split(COMMANDS[name].example)
    tries = [[*words[:i], "", *words[i + 1 :]] for i, word in enumerate(words) if i and word[0] not in "-0123456789"]
    options = [option for option, facts in COMMANDS[name].arguments if facts.get("type") is path]
    tries += [[*words, f"{option}="] for option in options if option.startswith("-")]
    for words in tries:
        with pytest.raises(SystemExit) as error:
            main(words)
        line = capsys.readouterr().err.splitlines()[-1]
        assert error.value.code == 2 and line.endswith(": empty; give a path or name"), words


@pytest.mark.parametrize("locale", [{"LANG": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_utf8_in_every_locale(tmp_path, locale):
    folder = tmp_path / "bild \u00e4"
    (folder / "k\u00e4se").mkdir(parents=True)
    (folder / "k\u00e4se" / "\u00fc.jpg").write_bytes(b"x")
    (folder / "k\u00e4se" / "\udcff.jpg").write_bytes(b"x")
    recipe = tmp_path / "r\u00e4.yaml"
    recipe.write_text(f"data: {{train: '{folder}'}}\n", encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))} | locale
    env["PYTHONPATH"] = os.path.dirname(os.path.dirname(cli.__file__))
    command = [sys.executable, "-m", "vitas_ds"]
    done = subprocess.run([*command, "index", folder], env=env, capture_output=True, check=True, timeout=60)
    assert "2 images of 1 classes in " in done.stdout.decode() and "bild \u00e4" in done.stdout.decode()
    done = subprocess.run([*command, "config", recipe], env=env, capture_output=True, check=True, timeout=60)
    assert "train: " in done.stdout.decode() and b"Traceback" not in done.stderr


def test_arguments_have_short_errors(capsys):
    with pytest.raises(SystemExit) as error:
        main(["scan", "a", "x" * 100_000])
    assert error.value.code == 2 and max(map(len, capsys.readouterr().err.splitlines())) < 330
