"""Sort the flat val folder of ImageNet into class folders, using the development kit (ILSVRC2012_devkit_t12).

    python launch/sort_val.py VAL DEVKIT

A second start after an interruption resumes. Needs scipy, a dependency of the package.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def labels(devkit: Path) -> list[str]:
    """Return the WordNet id (n01440764 ...) of each validation image, in the order of their numbers."""
    from scipy.io import loadmat

    for path in (devkit / "data" / "meta.mat", devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"):
        if not path.is_file():
            raise ValueError(f"{path}: no such file; DEVKIT is the unpacked ILSVRC2012_devkit_t12")
    rows = loadmat(devkit / "data" / "meta.mat", squeeze_me=True)["synsets"]
    names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    numbers = (devkit / "data" / "ILSVRC2012_validation_ground_truth.txt").read_text().split()
    return [names[int(number)] for number in numbers]


def sort(val: Path, wanted: list[str]) -> int:
    """Move each image ``*_00000001.JPEG`` into the folder of its class and return the number of moved images.

    Raises:
        ValueError: The folder does not exist, or the name of a file has no valid number. Nothing is moved then.
    """
    if not val.is_dir():
        raise ValueError(f"{val}: no such folder")
    moves = []
    for path in sorted(val.glob("*.JPEG")):
        number = path.stem.rpartition("_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(wanted):
            raise ValueError(f"{path}: its name does not end with a number from 1 to {len(wanted)}")
        moves.append((path, val / wanted[int(number) - 1] / path.name))
    for path, target in moves:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    return len(moves)


def main(argv: list[str] | None = None) -> int:
    """Sort the folder. The exit status is 2, with a one-line message, if that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("val", type=Path, help="folder with ILSVRC2012_val_00000001.JPEG ...")
    parser.add_argument("devkit", type=Path, help="unpacked ILSVRC2012_devkit_t12")
    args = parser.parse_args(argv)
    try:
        moved = sort(args.val, labels(args.devkit))
    except (OSError, ValueError, KeyError) as error:
        print(f"sort_val.py: {error}", file=sys.stderr)
        return 2
    folders = [path for path in args.val.iterdir() if path.is_dir()]
    print(f"{moved:,} images moved, {len(folders):,} class folders in {args.val}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
