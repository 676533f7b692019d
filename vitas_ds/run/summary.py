"""The headline numbers of a run: ``summary.json``, and the records of its stages from which it is completed.

A stage writes its numbers to a record: ``result.json``, ``evaluation.json`` or ``export.json``. A digest binds them to
the product of the stage. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitas_ds.errors.reading import as_written
from vitas_ds.run import lock
from vitas_ds.run.files import file_digest, read_json, tensors_header, to_json, write_json
from vitas_ds.run.run_dir import RunDir, read_config

DIGEST = "sha256 of numbers and product"
OF_CANDIDATE = (  # fields of best.json besides the headline numbers
    "top", "dropped", "budgets", "images", "generation", "seconds", "rank", "search_score", "searched_on",
)  # fmt: skip
SHAPE = ("patch_size", "embed_dim", "layers")  # fields of a spec that a recipe does not give


def read_summary(run: RunDir) -> dict[str, Any]:
    """Return the headline numbers of the finished stages: ``summary.json``, and numbers missing there after a kill.

    A training and an export write their numbers before their product, an evaluation writes them to a file of its own,
    and ``best.json`` has those of a search. A job killed while it moved stages aside left their numbers here.
    """
    summary = {stage: numbers for stage, numbers in read_json(run.summary, {}).items()
               if not _is_aside(run, stage, numbers)}  # fmt: skip
    with as_written():
        for stage, (record, product) in _records(run).items():
            numbers = read_json(record, {})
            digest = numbers.pop(DIGEST, None)
            made = product.is_file() if product else _measured_here(run, numbers)
            if digest and made and digest == _digest(numbers, product):
                summary[stage] = summary.get(stage, {}) | numbers
            elif product is None and not numbers.items() <= summary.get(stage, {}).items():
                warnings.warn(f"{record}: left out, it was changed or is not of this run; evaluate again", stacklevel=2)
        best, known = read_json(run.best, {}), summary.get("search", {}).get("best")
        spec = best.get("spec")
        if spec and not _repeats_first(best):
            warnings.warn(f"{run.best}: left out, it was changed; restore it, or search again", stacklevel=2)
        elif spec and (known is None or known.get("spec", spec) != spec):
            found = {name: value for name, value in best.items() if name not in OF_CANDIDATE}
            summary["search"] = summary.get("search", {}) | {"best": found}
        evaluated = summary.get("evaluate", {})
        if evaluated.get("model") == "retrain" and "retrain" in summary:
            summary["retrain"] |= {name: evaluated[name] for name in ("top1", "top5")}
    return summary


def _repeats_first(best: dict[str, Any]) -> bool:
    """Return whether ``best.json`` is as written: it has the fields of the first candidate of its list twice."""
    first: dict[str, Any] = next(iter(best.get("top", ())), {})
    return all(best.get(name) == value for name, value in first.items())


def _measured_here(run: RunDir, numbers: dict[str, Any]) -> bool:
    """Return whether an evaluation of the retrained network is one of this run: it has the digest of the weights.

    config.json records the digest. Without a record, the weights are read.
    """
    if numbers.get("model") != "retrain":
        return True
    recorded = read_json(run.retrain_model / "config.json", {}).get("sha256", {}).values()
    weights = run.retrain_weights
    return numbers.get("sha256") in (recorded or ([file_digest(weights)] if weights.is_file() else []))


def trains_older_network(run: RunDir) -> bool:
    """Return whether the search has found another best network since the stage retrain trained its best one."""
    trained, best = read_json(run.retrain_spec, {}), read_json(run.best, {}).get("spec", {})
    if all(trained.get(name) == best.get(name) for name in SHAPE) or not (trained and best):
        return False
    return read_config(run).retrain.spec in ("search:best", "search:best[1]")


def _is_aside(run: RunDir, stage: str, numbers: Any) -> bool:
    """Return whether these numbers belong to results in ``old`` (aside.py)."""
    results = {"train-supernet": run.supernet.path, "search": run.search, "retrain": run.retrain.path,
               "evaluate": run.evaluation, "export": run.export}  # fmt: skip
    if stage not in results or results[stage].exists():
        return False
    return any(read_json(path, {}).get(stage) == numbers for path in (run.path / "old").glob("*/summary.json"))


def _records(run: RunDir) -> dict[str, tuple[Path, Path | None]]:
    """Return the file with the numbers of each stage, and the product that exists once it has ended, if there is one.

    Of a model folder, it is the small file with the digests of the others.
    """
    return {
        "train-supernet": (run.supernet.result, run.supernet_weights),
        "retrain": (run.retrain.result, run.retrain_model / "config.json"),
        "evaluate": (run.evaluation, None),
        "export": (run.export_result, run.export / "README.md"),
    }


def write_result(run: RunDir, stage: str, numbers: dict[str, Any], product: Path | None = None) -> None:
    """Write the headline numbers of a stage (rank 0 only) before its product gets its name.

    They count only together with this product: an earlier one may have its name.

    Args:
        run: The run.
        stage: The stage.
        numbers: The numbers.
        product: The file that will be the product of ``_records``, under its temporary name.
    """
    record, _ = _records(run)[stage]
    write_json(record, numbers | {DIGEST: _digest(numbers, product)})


def is_changed(run: RunDir, stage: str) -> bool:
    """Return whether the record of a stage belongs to another product. A stage without a record has not changed."""
    record, product = _records(run)[stage]
    with as_written():
        numbers = read_json(record, {})
        digest = numbers.pop(DIGEST, None)
    return digest is not None and digest != _digest(numbers, product)


def _digest(numbers: dict[str, Any], product: Path | None) -> str:
    """Return a SHA-256 of numbers and their product; of weights only the header counts, which has their digest."""
    digest = hashlib.sha256(to_json(numbers).encode())
    if product and ".safetensors" in product.name:
        digest.update(tensors_header(product))
    elif product:
        digest.update(file_digest(product).encode())
    return digest.hexdigest()


def update_summary(run: RunDir, stage: str, values: dict[str, Any]) -> None:
    """Merge a stage's headline numbers into ``summary.json`` (rank 0 only)."""
    summary = read_summary(run)
    write_json(run.summary, summary | {stage: summary.get(stage, {}) | values})


def complete_summary(run: RunDir) -> None:
    """Add numbers missing in ``summary.json`` after a kill (rank 0 only), unless another job writes to the run."""
    if not run.path.is_dir() or not lock.is_free(run.path):
        return
    summary = read_summary(run)
    with suppress(OSError):  # read_summary has the same numbers, also if the folder is not writable
        if summary != read_json(run.summary, {}):
            write_json(run.summary, summary)
