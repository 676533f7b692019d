"""Limits of a search by ranks and search images. Importing this module does not import torch."""

from __future__ import annotations

from vitas_ds.errors import UserError


def check_group_size(ranks_per_candidate: int, world_size: int) -> None:
    """Raise ``UserError`` unless groups of ``ranks_per_candidate`` ranks (0 for one group of all) use all ranks."""
    if ranks_per_candidate and world_size % ranks_per_candidate:
        raise UserError(f"search.ranks_per_candidate: {ranks_per_candidate} does not divide the {world_size} ranks")


def check_image_count(images: int, held_out: int) -> None:
    """Raise ``UserError`` if candidates are to be scored on more images than the ``held_out`` search images."""
    if images > held_out:
        raise UserError(
            f"search.images: {images} is above the {held_out} search images held out; lower it, or raise "
            "data.search_per_class"
        )
