"""``vitas consolidate``: write the weights of a training checkpoint to one safetensors file. Needs no GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint_files
from vitas_ds.training.checkpoint_reader import find_checkpoint, write_consolidated


def run(args: argparse.Namespace) -> int:
    """Write ``args.out`` from ``args.checkpoint``, a checkpoint or a folder of checkpoints, and print the source.

    Raises:
        UserError: No complete checkpoint was found, it has no averaged weights (``--ema``), or the file cannot be
            written or is in the folder of a checkpoint.
    """
    path = _choose(args.checkpoint, args.best)
    if (args.out.parent / "manifest.json").is_file() and find_checkpoint(args.out.parent):
        raise UserError(f"--out {args.out}: is in the folder of a checkpoint; choose another folder")
    try:
        write_consolidated(path, args.out, ema=args.ema)
    except OSError as error:
        raise UserError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(f"{args.out}: {'averaged ' if args.ema else ''}weights of {path}, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _choose(path: Path, best: bool) -> Path:
    one = (path / "manifest.json").is_file() or not checkpoint_files.list_checkpoints(path)
    if best and one and find_checkpoint(path):
        raise UserError(f"--best: {path} is one checkpoint; give the folder of checkpoints")
    chosen = checkpoint_files.best(path) if best else find_checkpoint(path)
    if chosen is None:
        missing = "checkpoint with a recorded loss" if best else "complete checkpoint or folder of checkpoints"
        raise UserError(f"{path}: no {missing}")
    return chosen
