"""``vitas index``: list the images of a folder once, for all starts and ranks."""

from __future__ import annotations

import argparse

from vitas_ds.data.sources import write_index


def run(args: argparse.Namespace) -> int:
    """Run ``vitas index DATA``: write ``DATA/index.vitas``."""
    path, images, classes = write_index(args.data)
    print(f"index: {images:,} images of {classes:,} classes in {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
