"""Sort a flat val folder into classes.

Reference: a development kit written by scipy, with the classes assigned by hand.
"""

import importlib.util
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.helpers.paths import ROOT

_found = importlib.util.spec_from_file_location("sort_val", ROOT / "launch" / "sort_val.py")
sort_val = importlib.util.module_from_spec(_found)
_found.loader.exec_module(sort_val)


def devkit(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    rows = np.array([(1, "n02"), (2, "n01"), (3, "n03")], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(root / "data" / "meta.mat", {"synsets": rows})
    (root / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n1\n3\n")
    return root


def test_images_move_to_their_class_and_a_second_call_moves_nothing(tmp_path, capsys):
    kit, val = devkit(tmp_path / "kit"), tmp_path / "val"
    val.mkdir()
    for number in range(1, 5):
        (val / f"ILSVRC2012_val_{number:08}.JPEG").write_text(str(number))
    assert sort_val.main([str(val), str(kit)]) == 0
    found = {path.read_text(): path.parent.name for path in val.rglob("*.JPEG")}
    assert found == {"1": "n01", "2": "n02", "3": "n02", "4": "n03"}
    assert sort_val.main([str(val), str(kit)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 images moved, 3 class folders")


def test_a_user_error_moves_nothing_and_is_one_line(tmp_path, capsys):
    kit, val = devkit(tmp_path / "kit"), tmp_path / "val"
    val.mkdir()
    for name in ("ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000009.JPEG"):
        (val / name).touch()
    assert sort_val.main([str(val), str(kit)]) == 2
    assert len(list(val.glob("*.JPEG"))) == 2
    assert sort_val.main([str(val), str(tmp_path / "no")]) == 2
    assert sort_val.main([str(tmp_path / "nowhere"), str(kit)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "no/data/meta.mat: no such file; DEVKIT" in lines[1] and "nowhere: no such folder" in lines[2]
