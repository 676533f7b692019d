"""Tool consolidate: the weights of a training checkpoint as one safetensors file; one process, no engine, no GPU."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitas_ds.errors import UserError
from vitas_ds.training import checkpoint


def run(args: argparse.Namespace) -> int:
    """Write ``args.out`` from ``args.checkpoint``, a checkpoint or a folder of them; prints what was taken.

    Raises:
        UserError: there is no whole checkpoint, it has no averaged weights (``--ema``), or the file cannot be written.
    """
    path = _chosen(args.checkpoint, args.best)
    try:
        checkpoint.write_consolidated(path, args.out, ema=args.ema)
    except OSError as error:
        raise UserError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(f"{args.out}: {'averaged ' if args.ema else ''}weights of {path}, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _chosen(path: Path, best: bool) -> Path:
    if (path / "manifest.json").is_file():
        if best:
            raise UserError(f"--best: {path} is one checkpoint; give the folder of checkpoints")
        return path
    found = checkpoint.best(path) if best else checkpoint.newest(path)
    if found is None:
        lacking = "no checkpoint that tells its loss" if best else "no whole checkpoint, nor a folder of checkpoints"
        raise UserError(f"{path}: {lacking}")
    return found
