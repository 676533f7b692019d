"""Save and load training checkpoints, independent of ZeRO stage and number of ranks.

Every rank writes its shard into a temporary folder. When all files are on disk, one rename publishes the checkpoint, so
it is always complete. Loading runs no code from the files, because they contain no pickle. ``checkpoint_files``
describes the format. All ranks must see the same folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_shapes
from vitas_ds.run.files import sync_folder, write_tensors, write_text
from vitas_ds.training.checkpoint_files import FORMAT, file_digest, manifest_digest
from vitas_ds.training.checkpoint_reader import Reader


def save(engine: Engine, directory: Path, step: int, state: dict[str, Any], loss: float | None = None) -> Path:
    """Write and publish a checkpoint. All ranks must call this.

    Args:
        engine: Engine to save.
        directory: Folder of the checkpoints.
        step: Number of finished steps.
        state: State of the training loop; must be JSON serializable.
        loss: Loss by which ``checkpoint_files.best`` chooses (lower is better).

    Returns:
        Folder of the checkpoint.

    Raises:
        OSError: A rank could not write. Raised on all ranks; nothing was published.
    """
    target = Path(directory) / f"step-{step:08d}"
    temporary = target.with_name(f"saving-{target.name}")
    comm.from_main(lambda: _make_empty(temporary))
    shards = comm.gather(_write_shard(engine, temporary))
    for rank, shard in enumerate(shards):
        if "error" in shard:
            raise OSError(f"checkpoint of step {step}: rank {rank} could not write: {shard['error']}")
    content = {"engine": engine.state(), "loop": state, "loss": loss}

    def finish() -> None:
        _write_manifest(engine, temporary, step, shards, content)
        _publish(temporary, target)

    comm.from_main(finish)
    return target


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _write_shard(engine: Engine, folder: Path) -> dict[str, Any]:
    """Write the file of this rank. Return its parts, size and digest, or the error."""
    rank = engine.ranks.rank
    if engine.stage == 0 and rank > 0:  # all ranks have the same tensors
        return {"parts": {}, "files": {}}
    path = folder / f"shard-{rank:05d}.safetensors"
    parts = {p.name: (path.name, p.source, p.length) for pieces in engine.owned.values() for p in pieces}
    try:
        write_tensors(path, _shard_tensors(engine))
        return {"parts": parts, "files": {path.name: _size_and_digest(path)}}
    except (OSError, SafetensorError) as error:
        return {"error": str(error)}


def _shard_tensors(engine: Engine) -> dict[str, Tensor]:
    """Return copies on the CPU of this rank's pieces of each kind, and on rank 0 of the buffers."""
    tensors = {}
    for kind in engine.kinds:
        for owner, tensor in engine.tensors(kind).items():
            flat = tensor.detach().view(-1)
            for piece in engine.owned[owner]:
                part = flat[piece.offset : piece.offset + piece.length]
                tensors[f"{kind}/{piece.name}"] = part.clone() if part.device.type == "cpu" else part.cpu()
    if engine.ranks.is_main:
        tensors |= {f"constant/{name}": tensor.detach().cpu() for name, tensor in engine.buffers().items()}
    return tensors


def _size_and_digest(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_digest(path)


def _write_manifest(
    engine: Engine, folder: Path, step: int, shards: list[dict[str, Any]], content: dict[str, Any]
) -> None:
    """Write state.json and manifest.json, and flush the folder."""
    files = {name: entry for shard in shards for name, entry in shard["files"].items()}
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: rank 0 does not see {missing[0]}; the run folder must be shared by all nodes")
    write_text(folder / "state.json", json.dumps(content))
    files["state.json"] = _size_and_digest(folder / "state.json")
    manifest = {
        "format": FORMAT, "step": step, "world_size": len(shards), "stage": engine.stage, "kinds": engine.kinds,
        "shapes": engine.shapes, "constants": sorted(engine.buffers()),
        "parts": {name: [shard["parts"][name] for shard in shards if name in shard["parts"]] for name in engine.shapes},
        "files": files,
    }  # fmt: skip
    write_text(folder / "manifest.json", json.dumps(manifest | {"sha256": manifest_digest(manifest)}))
    sync_folder(folder)


def _publish(temporary: Path, target: Path) -> None:
    """Rename the temporary folder, and flush the rename to disk."""
    old = target.with_name(f"old-{target.name}")
    if target.exists():  # a damaged one: the run resumed from an older checkpoint and reached this step again
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    temporary.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(engine: Engine, path: Path) -> dict[str, Any]:
    """Load a checkpoint of any ZeRO stage and number of ranks into the engine. All ranks must call this.

    The checkpoint is not verified: ``checkpoint_files.newest`` and ``verify`` do that.

    Returns:
        State of the training loop.

    Raises:
        UserError: The checkpoint is of another network.
    """
    reader = Reader(path)
    check_shapes(f"{path}: checkpoint of another network", reader.shapes, engine.shapes)
    for kind in engine.kinds:
        # without averaged weights in the checkpoint, the averages start at the weights
        stored = kind if kind in reader.manifest["kinds"] else "weight"
        for owner, tensor in engine.tensors(kind).items():
            flat = tensor.detach().view(-1)
            for piece in engine.owned[owner]:
                reader.read(stored, piece.name, piece.source, flat[piece.offset : piece.offset + piece.length])
    for name, tensor in engine.buffers().items():
        tensor.copy_(reader.buffer(name))
    state = json.loads((Path(path) / "state.json").read_text())
    engine.restore(state["engine"])
    return state["loop"]
