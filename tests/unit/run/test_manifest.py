"""The manifest: its form, and facts of a start.

References: files written by hand; torch.
"""

import pytest
import torch

from tests.helpers import runs
from vitas_ds.__main__ import main
from vitas_ds.errors import UserError
from vitas_ds.run.manifest import gpu_of, read_starts
from vitas_ds.run.start import find_run

config, run = runs.config, runs.run  # fixtures


def test_the_gpu_of_a_job():
    expected = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    assert gpu_of("auto") == expected and gpu_of("cpu") == {}


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 1}', '{"starts": {}}', '{"starts": [1]}', '{"starts": [{}]}'])
def test_every_command_refuses_a_damaged_manifest(config, run, capsys, text):
    assert [start["stage"] for start in read_starts(run)] == ["train-supernet", "search", "retrain"]
    run.manifest.write_text(text)
    with pytest.raises(UserError, match="damaged, does not list starts"):
        find_run(config)  # as every stage does first
    for command in ("export", "report", "status", "clean"):
        assert main([command, str(run.path)]) == 2, command
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"vitas {command}: {run.manifest}: damaged, does not list starts; move it away")
    run.manifest.unlink()
    assert read_starts(run) == []
