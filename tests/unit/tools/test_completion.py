"""The completion of shells, in the shells themselves. References: words by hand, the parser and the configuration."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from vitas_ds.__main__ import main
from vitas_ds.commands import COMMANDS

TRY = """
try() {
    [[ -z ${ZSH_VERSION-} ]] || emulate -L ksh
    COMP_WORDS=(vitas "$@") COMP_CWORD=$#
    _vitas
    echo "${COMPREPLY[*]}"
}
"""
COMMANDS_OF_A_SHELL = ("a$(id>pwned)", "a`id`", "a;id", "a b", "a*", "a&", "a|b", "a>b", "a'b", 'a"b', "a\nb", "a\\b")
CASES = {
    "se": "search",
    "search qu": "quickstart",
    "search --": "--redo --help",
    "search q search.gen": "search.generations=",
    "search q sea": "search.",
    "search q --redo retrain.teacher.k": "retrain.teacher.kind=",
    "search runs/": "runs/a",
    "status ''": "runs/a",
    "search q a =": "",
    "search q search.macs = s": "",
    "search q data.train=ru": "",
    "config q --world-size ''": "",
    "predict ''": "",
    "completion --": "--help",
}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_words(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").touch()
    (tmp_path / "runs" / "folder").mkdir()
    for name in COMMANDS_OF_A_SHELL:
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "config.yaml").touch()
    tries = [f"try {words}" for words in CASES]
    lines = [script, TRY, *tries, "try ''"]
    flags = ["-f"] if shell == "zsh" else ["--norc"]
    done = subprocess.run([shell, *flags, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert not (tmp_path / "pwned").exists()
    *found, commands = done.stdout.splitlines()
    for (words, expected), line in zip(CASES.items(), found, strict=True):
        assert line == expected, shlex.split(words)
    assert commands.split() == list(COMMANDS)
