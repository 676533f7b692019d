"""Event files for TensorBoard.

Reference: TensorBoard's own reader.
"""

import sys

import numpy as np
import pytest
from PIL import Image

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.tracking import check_tracking, open_tracker


def make(root) -> tuple[Config, RunDir]:
    config = Config.model_validate({"run": {"name": "a", "dir": str(root)}, "tracking": {"wandb": "disabled"}})
    return config, RunDir(root / "a")


def tensorboard_run(run):
    """Return tag -> [(step, value)] of the scalars, and the other tags, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.tensorboard / "search"), purge_orphaned_data=True).Reload()
    tags = events.Tags()
    scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
    return scalars, set(tags["images"]) | set(tags["histograms"]) | set(tags["tensors"])


def test_tensorboard(tmp_path):
    """A stage is stopped after step 4 and resumes after step 2."""
    pytest.importorskip("tensorboard")
    config, run = make(tmp_path)
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"tensorboard": True})})
    picture = tmp_path / "x.png"
    Image.new("RGB", (4, 4), (255, 0, 0)).save(picture)
    for start, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with open_tracker(config, run, "search", True, total=5, start_step=start) as tracker:
            for step in steps:
                tracker.log(step, {"best": step / 8, "none": None})
            tracker.evaluation(steps[-1], {"accuracy/smallest": 0.5})
            tracker.image("search/front", picture)
            tracker.table("search/candidates", ["macs", "score"], [[1, 0.5], [2, 0.6]])
            tracker.histogram("scores", np.array([0.5, 0.75]))
            tracker.artifact("best-spec", "spec", picture)
            tracker.summary({"best": {"macs": 7}})
    scalars, others = tensorboard_run(run)
    assert scalars["best"] == [(step, step / 8) for step in (1, 2, 3, 4, 5)]
    assert scalars["accuracy/smallest"][-1] == (5, 0.5) and "none" not in scalars
    assert others >= {"search/front", "scores", "search/candidates/text_summary", "summary/text_summary"}
    assert not (run.path / "wandb").exists()


def test_tensorboard_is_off_by_default_and_optional(tmp_path, monkeypatch):
    config, run = make(tmp_path)
    open_tracker(config, run, "search", True, total=1).close()
    assert not run.tensorboard.exists()
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # marks it as not installed
    check_tracking(config)
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"tensorboard": True})})
    with pytest.raises(UserError, match=r"^tracking\.tensorboard: tensorboard is not installed; pip install -e"):
        check_tracking(config)
