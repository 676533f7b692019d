"""List, verify and delete checkpoints: damaged ones are skipped, retention.

References: checkpoints damaged on purpose, and a list of names by hand.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint
from vitas_ds.training.checkpoint_files import (
    best,
    clean_up,
    keep_only,
    list_checkpoints,
    newest,
    prune,
    remove,
    verify,
)
from vitas_ds.training.checkpoint_reader import consolidate
from vitas_ds.training.train_state import TrainState


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip(path: Path) -> None:
    """Flip one bit in the middle: the size stays the same, and the file can still be parsed."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("name", ["shard-00000.safetensors", "state.json"])
def test_a_damaged_file_is_named_and_the_next_older_checkpoint_used(
    saved: Path, name: str, damage: Callable[[Path], None]
) -> None:
    bad = saved / "step-00000003" / name
    damage(bad)
    with pytest.warns(UserWarning, match=f"step-00000003/{name}"):
        assert newest(saved) == saved / "step-00000002"
    with pytest.raises(UserError, match=name):
        consolidate(bad.parent)


def test_every_changed_byte_of_a_manifest_is_noticed(saved: Path) -> None:
    """The manifest has the offsets of all parameters: with another digit, the checkpoint is another network."""
    path = saved / "step-00000003" / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 16):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            assert verify(path.parent) is not None, (place, bit, whole[place : place + 20])
    manifest = json.loads(whole)
    manifest["parts"]["head.weight"][0][1] += 1
    path.write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match=r"step-00000003/manifest\.json was changed"):
        assert newest(saved) == saved / "step-00000002"


def test_format_1_is_supported(saved: Path) -> None:
    path = saved / "step-00000003" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 1}
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert newest(saved) == path.parent


@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', '{"format": 99, "files": {}}']
)
def test_a_damaged_manifest(saved: Path, content: str | None) -> None:
    manifest = saved / "step-00000003" / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.warns(UserWarning, match="step-00000003/manifest.json"):
        assert newest(saved) == saved / "step-00000002"


def test_two_damaged_checkpoints(saved: Path) -> None:
    for step in (2, 3):
        flip(saved / f"step-0000000{step}" / "state.json")
    with pytest.warns(UserWarning) as warned:
        assert newest(saved) == saved / "step-00000001"
    assert len(warned) == 2
    shutil.rmtree(saved / "step-00000001")
    with pytest.raises(UserError, match=r"no checkpoint is intact: .*step-00000003/state.json"):
        newest(saved)


def test_other_files_are_ignored(saved: Path) -> None:
    (saved / "saving-step-00000009").mkdir()
    (saved / "old-step-00000008").mkdir()
    (saved / "step-best").mkdir()
    (saved / "step-00000007").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest(saved) == saved / "step-00000003"
        assert newest(saved / "nowhere") is None


def test_retention(saved: Path, engine: Engine) -> None:
    checkpoint.save(engine, saved, 4, {})
    prune(saved, keep=2)
    assert names(saved) == ["step-00000003", "step-00000004"]
    for step in (5, 6, 7):
        checkpoint.save(engine, saved, step, {})
        prune(saved, keep=2, every=4)
    assert names(saved) == ["step-00000004", "step-00000006", "step-00000007"]
    prune(saved, keep=0)
    assert len(names(saved)) == 3


def test_a_damaged_later_checkpoint_displaces_none(saved: Path, engine: Engine) -> None:
    """The training resumed from step 2, and saved step 3 before it reaches the damaged step 5 again."""
    checkpoint.save(engine, saved, 5, {}, 0.1)
    flip(saved / "step-00000005" / "shard-00000.safetensors")
    prune(saved, keep=1, keep_best=True, step=3)
    assert names(saved) == ["step-00000003", "step-00000005"]
    checkpoint.save(engine, saved, 5, {}, 0.1)
    prune(saved, keep=1, step=5)
    assert names(saved) == ["step-00000005"] and verify(saved / "step-00000005") is None
    keep_only(checkpoint.save(engine, saved, 4, {}))
    assert names(saved) == ["step-00000004"]


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(saved: Path) -> None:
    """Between the two renames, only ``replaced-...`` is complete."""
    for name in names(saved):
        (saved / name).rename(saved / f"replaced-{name}")
    shutil.copytree(saved / "replaced-step-00000003", saved / "step-00000003")
    (saved / "old-step-00000001").mkdir()
    (saved / "saving-step-00000004").mkdir()
    clean_up(saved)
    assert names(saved) == steps(1, 2, 3) and newest(saved) == saved / "step-00000003"


def steps(*numbers: int) -> list[str]:
    return [f"step-{number:08d}" for number in numbers]


def test_the_best_checkpoint_is_kept(saved: Path, engine: Engine) -> None:
    def save(step: int, loss: float | None = None) -> None:
        checkpoint.save(engine, saved, step, {}, loss)
        prune(saved, keep=2, keep_best=True)

    for step, loss in ((4, 2.0), (5, 1.5), (6, 1.7), (7, float("nan")), (8, 1.6)):
        save(step, loss)
        assert best(saved) == saved / f"step-{4 if step == 4 else 5:08d}"
    assert names(saved) == ["step-00000005", "step-00000007", "step-00000008"]
    save(9, 1.5)  # the same loss, but newer
    save(10)
    save(11)
    assert names(saved) == ["step-00000009", "step-00000010", "step-00000011"]
    (saved / "step-00000009" / "state.json").write_text("{")
    with pytest.warns(UserWarning, match="checkpoint skipped: .*step-00000009/state.json has 1 bytes"):
        assert best(saved) is None


def test_the_best_checkpoint_is_the_most_accurate_one(saved: Path, engine: Engine) -> None:
    def save(step: int, loss: float, accuracy: float | None, measured_at: int) -> None:
        checkpoint.save(
            engine, saved, step, TrainState(step, accuracy=accuracy, accuracy_step=measured_at).to_dict(), loss
        )

    save(4, 1.0, None, -1)
    assert best(saved) == saved / "step-00000004"  # nothing is measured: the lowest loss
    save(5, 3.0, 0.5, 5)
    save(6, 2.0, 0.5, 5)  # measured before this step
    assert best(saved) == saved / "step-00000005"
    save(7, 4.0, 0.6, 7)
    save(8, 0.5, 0.55, 8)
    assert best(saved) == saved / "step-00000007"


def test_a_folder_left_by_a_killed_deletion_does_not_block_the_next_one(saved: Path) -> None:
    (saved / "old-step-00000002").mkdir()
    (saved / "old-step-00000002" / "state.json").write_text("{}")
    remove(saved / "step-00000002")
    assert [path.name for path in list_checkpoints(saved)] == ["step-00000003", "step-00000001"]
    assert names(saved) == ["step-00000001", "step-00000003"]
