"""Move results of a run aside, to ``old/N``, so that their stages can run again. Nothing is deleted.

``old/N`` is a run of its own: the moved stages with their settings, metrics and summary, so `report`, ``retrain.spec``
and ``search.checkpoint`` can name it. First come copies, then the renames, stage by stage from the last one, then
``summary.json``. After a kill in between, the run has lost later stages at most, as if they had not run yet;
``read_summary`` leaves out the numbers found both here and in ``old/N``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from vitas_ds.run.files import sync_folder, to_json, write_json
from vitas_ds.run.run_dir import RunDir, read_config
from vitas_ds.run.summary import read_summary

ORDER = ("train-supernet", "search", "retrain", "evaluate", "export")


def dependents(run: RunDir, stage: str) -> list[str]:
    """Return a stage and those whose results come from it, in their order."""
    config, found = read_config(run), {stage}
    if stage == "train-supernet" and config.search.checkpoint is None:
        found |= {"search"} | ({"retrain"} if config.retrain.init == "supernet" else set())
    if "retrain" in found:
        found |= {name for name in ("evaluate", "export") if getattr(config, name).model == "retrain"}
    return [name for name in ORDER if name in found]


def set_aside(run: RunDir, stages: Iterable[str]) -> RunDir | None:
    """Move the results of some stages aside; return their new run folder, or None without results."""
    moved = {stage: [path for path in _paths(run, stage) if path.exists()] for stage in ORDER if stage in stages}
    if not any(moved.values()):
        return None
    old = _new_folder(run)
    for file in (run.config, run.manifest, run.classes, run.search_images):
        if file.exists():
            shutil.copy2(file, old.path / file.name)
    summary = read_summary(run)
    if summary:
        write_json(run.summary, summary)
    write_json(old.summary, {stage: numbers for stage, numbers in summary.items() if stage in moved})
    _copy_metrics(run, old, moved)
    for paths in reversed(moved.values()):
        for path in paths:
            target = old.path / path.relative_to(run.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _make_links_absolute(path)
            path.rename(target)
            sync_folder(target.parent)
            sync_folder(path.parent)
    if summary.keys() & moved.keys():
        write_json(run.summary, {stage: numbers for stage, numbers in summary.items() if stage not in moved})
    return old


def _make_links_absolute(path: Path) -> None:
    """Replace relative links, which would lead elsewhere from another folder. Those inside a moved folder stay."""
    links = [path] if path.is_symlink() else []
    for folder, folders, names in os.walk(path) if not links else ():
        links += [link for name in (*folders, *names) if (link := Path(folder, name)).is_symlink()]
    for link in links:
        there = os.path.realpath(link)
        inside = link != path and Path(there).is_relative_to(path.resolve())
        if not inside and not os.path.isabs(os.readlink(link)):
            aside = link.with_name(f".{link.name}.link")
            aside.unlink(missing_ok=True)  # of a killed job
            aside.symlink_to(there)
            aside.replace(link)


def _paths(run: RunDir, stage: str) -> list[Path]:
    """Return the results of a stage. Of a training or a search, the first one has all that decides where it resumes."""
    results = {
        "train-supernet": [run.supernet.path], "search": [run.search], "retrain": [run.retrain.path],
        "evaluate": [run.evaluation, run.evaluation_images], "export": [run.export, run.export_result],
    }  # fmt: skip
    return [*results[stage], run.tensorboard / stage]


def _new_folder(run: RunDir) -> RunDir:
    numbers = [int(path.name) for path in (run.path / "old").glob("*") if path.name.isdecimal()]
    old = RunDir(run.path / "old" / str(max(numbers, default=0) + 1))
    old.path.mkdir(parents=True)
    return old


def _copy_metrics(run: RunDir, old: RunDir, stages: Iterable[str]) -> None:
    """Copy the metrics of some stages. A stage that starts from step 0 drops its records from the run."""
    if not run.metrics.exists():
        return
    starts = tuple(to_json({"stage": stage})[:-1].encode() for stage in stages)
    with run.metrics.open("rb") as source, old.metrics.open("wb") as target:
        target.writelines(line for line in source if line.startswith(starts))
