"""Stage search: evolution inside a budget, nets scored with the supernet's weights on images held out of training."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from vitas_ds.config import Config
from vitas_ds.data.cache import decoded
from vitas_ds.data.loader import normalise
from vitas_ds.data.sources import ImageSet, hold_out, read_folder
from vitas_ds.distributed import comm, preemption, watchdog
from vitas_ds.distributed.comm import Ranks
from vitas_ds.distributed.watchdog import Watchdog
from vitas_ds.engine import precision
from vitas_ds.errors import UserError
from vitas_ds.models.shapes import check_shapes, shapes_of
from vitas_ds.models.supernet import Supernet
from vitas_ds.run.run_dir import RunDir, read_summary, update_summary
from vitas_ds.run.start import find_run, open_run
from vitas_ds.run.tracker import Tracker
from vitas_ds.run.tracking import open_tracker
from vitas_ds.search.session import open_session, run_search
from vitas_ds.training import checkpoint


def run(config: Config) -> None:
    """Search the space of ``config`` inside ``config.search``'s budget; writes ledger, front and best net."""
    ranks = comm.init(config.run.device, config.run.timeout)
    folder = find_run(config)
    key = {"generations": config.search.generations, "top_k": config.search.top_k}
    before = read_summary(folder).get("search", {})
    asked_more = config.search.baselines and not folder.baselines.exists()
    if folder.best.exists() and not asked_more and all(before.get(name) == value for name, value in key.items()):
        if ranks.is_main:
            print(f"search: done already, {before['scored']} nets scored, best {before['best']['score']:.4f}")
        return
    precision.set_backends(config.engine)
    supernet, digest = load_supernet(config, folder)
    images = search_images(config, folder)
    open_run(config, ranks.is_main, stage="search", world_size=ranks.world_size)
    total = config.search.population * config.search.generations
    with (
        preemption.listening(),
        Watchdog(folder.life, "search", ranks, config.run.timeout),
        open_tracker(config, folder, "search", ranks.is_main, total=total) as tracker,
    ):
        numbers = _search(config, folder, ranks, supernet, digest, images, tracker)
        tracker.summary(numbers)
        tracker.artifact("best-spec", "spec", folder.best)
    if ranks.is_main:
        update_summary(folder, "search", key | numbers)


def load_supernet(config: Config, folder: RunDir) -> tuple[Supernet, str]:
    """The trained supernet and the SHA-256 of its weights: the run's own, or what ``search.checkpoint`` names.

    That is a consolidated file or a checkpoint folder of any ZeRO stage and any number of ranks; no engine is needed.

    Raises:
        UserError: it is missing, not whole, or of another space.
    """
    path = Path(config.search.checkpoint or folder.supernet_weights)
    if not path.exists():
        hint = "search.checkpoint" if config.search.checkpoint else "run the stage train-supernet first"
        raise UserError(f"{path}: no trained supernet; {hint}")
    try:
        weights = checkpoint.consolidate(path, ema=config.supernet.ema_decay > 0) if path.is_dir() else load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a supernet's weights ({error})") from None
    sharing, private = config.supernet.sharing, config.supernet.private_attention
    supernet = Supernet(config.space, sharing, private, class_token_only=True)
    check_shapes(f"{path}: a supernet of another space", shapes_of(weights), shapes_of(supernet.state_dict()))
    supernet.load_state_dict(weights)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return supernet.eval(), digest.hexdigest()


def search_images(config: Config, folder: RunDir) -> ImageSet:
    """The images held out of training, drawn as the stage train-supernet drew them.

    Raises:
        UserError: one of them is not in the list that the supernet's training left, so that it may have learned it.
    """
    everything = read_folder(config.data.train, config.data.exclude, config.space.num_classes)
    _, images = hold_out(everything, config.data.search_per_class, config.run.seed)
    weights = Path(config.search.checkpoint or folder.supernet_weights)
    lists = (RunDir(parent).search_images for parent in weights.absolute().parents[:4])
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        warnings.warn(
            f"{weights}: no {folder.search_images.name} in the folders above it tells which images its training held "
            "out; the search may score on images that it learned", stacklevel=2,
        )  # fmt: skip
        return images
    held_out = set(os.fsdecode(found.read_bytes()).split("\n"))
    learned = [name for name in images.paths if not held_out.issuperset(name.split("\n"))]
    if learned:
        raise UserError(
            f"data.train: {len(learned)} of {len(images)} search images, such as {learned[0]}, are not in {found}, so "
            "that the supernet may have learned them; restore the files, data.exclude, data.search_per_class and "
            "run.seed of its training, or train anew"
        )
    return images


def _search(
    config: Config, folder: RunDir, ranks: Ranks, supernet: Supernet, digest: str, images: ImageSet, tracker: Tracker
) -> dict[str, Any]:
    watchdog.at("decoding the search images")
    pixels = decoded(images, config.data, config.space.image_size, ranks, folder.search)
    session = open_session(
        config, folder, ranks, tracker, supernet, digest, images, pixels, lambda x: normalise(x, config.data)
    )
    return run_search(session)
