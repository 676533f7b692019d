"""``vitas resize-data``: shrink the images of a data set in advance."""

from __future__ import annotations

import argparse
import sys

from vitas_ds.data.resize import UNREADABLE, Settings, resize_data
from vitas_ds.distributed import preemption
from vitas_ds.errors import UserError, printable
from vitas_ds.tools.progress import Progress


def run(args: argparse.Namespace) -> int:
    """Run ``vitas resize-data SOURCE DEST``; return 1 if there are unreadable images.

    Raises:
        UserError: An argument is out of range, or see ``resize_data``.
    """
    if args.short_side < 1:
        raise UserError(f"--short-side: must be 1 or more (given: {args.short_side})")
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality: must be 1 to 100 (given: {args.quality})")
    progress = Progress("resize-data")
    settings = Settings(args.short_side, args.quality, args.format)
    with preemption.raise_on_signals():
        images, bad = resize_data(args.source, args.dest, settings, args.workers, progress.show)
    for path, reason in bad:
        print(f"{printable(path.encode(errors='surrogateescape').decode(errors='replace'))}: {printable(reason)}")
    listed = f"; {len(bad)} are unreadable and left out, see {args.dest / UNREADABLE}" if bad else ""
    done = "" if progress.files else "done already, "
    print(f"resize-data: {done}{images - len(bad)} of {images} images in {args.dest}{listed}", file=sys.stderr)
    return 1 if bad else 0
