"""Save and load training checkpoints, independent of ZeRO stage and number of ranks.

A save copies the state to host memory; a thread on each rank writes it into a temporary folder. When all files are on
disk, one rename publishes the checkpoint, so it is always complete. Loading runs no code from the files, because they
contain no pickle. ``checkpoint_files`` describes the format. In DeepSpeed's format, the files are pickles, which are
loaded without running code too. All ranks must see the same folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from vitas_ds.distributed import comm
from vitas_ds.engine.engine import Engine
from vitas_ds.errors import SaveFailed, UserError
from vitas_ds.errors.exits import disk_problem
from vitas_ds.models.shapes import check_shapes
from vitas_ds.run import lock
from vitas_ds.training import checkpoint_files
from vitas_ds.training.checkpoint_files import DEEPSPEED, FORMAT
from vitas_ds.training.checkpoint_reader import open_checkpoint
from vitas_ds.training.checkpoint_shard import write_pickle, write_shard
from vitas_ds.training.checkpoint_staging import Staging
from vitas_ds.training.checkpoint_write import Plan, Write, Writer

State = dict[str, Any]

WAIT = 0.2  # seconds between two looks at a save in flight
LAST_WAIT = 10.0  # seconds for a save in flight when the job fails


class Saver:
    """Saves checkpoints of an engine. All ranks must call its methods together.

    At most one save is in flight. Use it as a context manager: if the job fails, a save in flight may end.

    Args:
        engine: Engine to save.
        directory: Folder of the checkpoints.
        asynchronous: Return from ``save`` when the state is copied to host memory, and write it in a thread.
        deepspeed: Write the files of DeepSpeed's ``engine.save_checkpoint`` in place of our shards.
        limit: Seconds without progress after which a save fails.
        after: Called on rank 0 after each published checkpoint, with its step.
        alive: Called while ``save`` or ``wait`` waits.
    """

    def __init__(
        self, engine: Engine, directory: Path, asynchronous: bool = True, limit: float = 1800,
        after: Callable[[int], object] = lambda step: None, alive: Callable[[], object] = lambda: None,
        deepspeed: bool = False,
    ) -> None:  # fmt: skip
        self.engine, self.directory, self.asynchronous = engine, Path(directory), asynchronous
        self.limit, self.after, self.alive, self.deepspeed = limit, after, alive, deepspeed
        self._staging = Staging()
        self._write: Write | None = None  # the save in flight, on all ranks or on none

    def save(self, step: int, state: dict[str, Any], loss: float | None = None) -> Path:
        """Save a checkpoint. A save in flight ends first.

        Args:
            step: Number of finished steps.
            state: State of the training loop; must be JSON serializable.
            loss: Loss by which ``checkpoint_files.best`` chooses without measured accuracies (lower is better).

        Returns:
            Folder of the checkpoint. It exists once the save has ended.

        Raises:
            SaveFailed: A rank could not write this or the previous checkpoint. Raised on all ranks.
        """
        self.wait()
        engine, target = self.engine, self.directory / f"step-{step:08d}"
        token = comm.from_main(lambda: _make_room(target))
        content = {"engine": engine.state(), "loop": state, "loss": loss}
        manifest = {
            "format": DEEPSPEED if self.deepspeed else FORMAT, "step": step, "world_size": engine.ranks.world_size,
            "stage": engine.stage, "kinds": engine.kinds, "shapes": engine.shapes,
            "constants": sorted(engine.buffers()),
        }  # fmt: skip
        writers = engine.ranks.world_size if engine.stage else 1  # in stage 0, all ranks have the same tensors
        ready, write, parts = self._copy_deepspeed(step, content) if self.deepspeed else self._copy()
        plan = Plan(
            step, engine.ranks.rank, writers, token, target, ready, write, parts, content, manifest,
            partial(self.after, step),
        )  # fmt: skip
        self._write = Write(plan, self.limit)
        if not self.asynchronous:
            self.wait()
        return target

    def _copy(self) -> tuple[Callable[[], object], Writer, dict[str, tuple[str, int, int]]]:
        """Copy this rank's tensors. Return the wait for the copy, a function that writes it, and its parts."""
        engine = self.engine
        tensors, ready = self._staging.copy(engine)
        name = f"shard-{engine.ranks.rank:05d}.safetensors"
        parts = {p.name: (name, p.source, p.length) for pieces in engine.owned.values() for p in pieces}
        return ready, lambda folder, progress: {name: write_shard(folder / name, tensors, progress)}, parts

    def _copy_deepspeed(self, step: int, content: State) -> tuple[Callable[[], object], Writer, dict[str, Any]]:
        """Copy what DeepSpeed saves on this rank, like ``_copy``."""
        files, ready = self._staging.copy_files(self.engine.checkpoint_files(step, content), self.engine.ranks.device)

        def write(folder: Path, progress: Callable[[], None]) -> dict[str, tuple[int, str]]:
            return {name: write_pickle(folder / name, files[name], progress) for name in files}

        return ready, write, {}

    def poll(self) -> None:
        """Check on a save in flight. This costs a collective, but only while there is one.

        Raises:
            SaveFailed: A rank could not write. Raised on all ranks; nothing was published.
        """
        if self._write is None:
            return
        statuses = comm.gather(self._write.status())
        for rank, status in enumerate(statuses):
            if status.error is not None:
                self._write.closing.set()
                step, self._write = self._write.plan.step, None
                _fail(step, rank, status.error)
        if all(status.written for status in statuses):
            self._write.all_written.set()
        if all(status.done for status in statuses):
            self._write = None

    def wait(self) -> None:
        """Wait until no save is in flight. Raises like ``poll``."""
        while self._write is not None:
            self._write.join(WAIT)
            self.alive()
            self.poll()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Wait a little for this rank's thread if the job fails: the other ranks may have written their part."""
        if self._write is not None and isinstance(error, Exception):
            self._write.closing.set()
            self._write.join(LAST_WAIT)


def _fail(step: int, rank: int, error: Exception) -> NoReturn:
    if isinstance(error, OSError):
        raise SaveFailed(f"checkpoint of step {step}: rank {rank} could not write: {disk_problem(error)}") from error
    raise error


def _make_room(target: Path) -> str:
    """Create the temporary folder of a save, and remove those of killed jobs. Return a token for the save."""
    lock.check(target)
    checkpoint_files.remove_leftovers(target.parent)
    target.with_name(f"saving-{target.name}").mkdir(parents=True)
    return uuid.uuid4().hex


def save(
    engine: Engine, directory: Path, step: int, state: dict[str, Any], loss: float | None = None,
    deepspeed: bool = False,
) -> Path:  # fmt: skip
    """Save a checkpoint and wait for it; see ``Saver.save``. All ranks must call this."""
    return Saver(engine, directory, asynchronous=False, deepspeed=deepspeed).save(step, state, loss)


def load(engine: Engine, path: Path) -> dict[str, Any]:
    """Load a checkpoint of any ZeRO stage and number of ranks into the engine. All ranks must call this.

    The checkpoint is not verified: ``checkpoint_files.newest`` and ``verify`` do that.

    Returns:
        State of the training loop.

    Raises:
        UserError: The checkpoint is of another network, or only its weights can be read.
    """
    reader = open_checkpoint(Path(path))
    check_shapes(f"{path}: checkpoint of another network", reader.shapes, engine.shapes)
    state = reader.state
    if state is None or "exp_avg" not in reader.kinds:
        raise UserError(
            f"{path}: a checkpoint of DeepSpeed of which only weights can be read; set init_weights instead"
        )
    for kind in engine.kinds:
        # without averaged weights in the checkpoint, the averages start at the weights
        stored = kind if kind in reader.kinds else "weight"
        for owner, tensor in engine.tensors(kind).items():
            flat = tensor.detach().view(-1)
            for piece in engine.owned[owner]:
                reader.read(stored, piece.name, piece.source, flat[piece.offset : piece.offset + piece.length])
    for name, tensor in engine.buffers().items():
        tensor.copy_(reader.buffer(name))
    engine.restore(state["engine"])
    return state["loop"]
