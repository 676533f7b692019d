"""Rows of the model card of a subnet: the parts kept from the pretrained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.export.card import read_license
from vitas_ds.export.folder import Facts, read_facts

SOURCE = "elastic training from"  # row of a reordered network: digest of the weights, and how they were reordered
ORIGIN = ("architecture", "weights", "SHA-256 of the file")  # rows of the card of a network of timm


def origin_facts(folder: Path, spec: SubnetSpec) -> Facts:
    """Return rows of the model card of a subnet.

    Args:
        folder: The pretrained network, in the format of an exported model.
        spec: The subnet.
    """
    theirs, whole = read_facts(folder), read_spec(folder / "spec.json")
    rows = {f"origin, {name}": theirs[name] for name in ORIGIN if name in theirs}
    rows = rows or {"origin": theirs.get(SOURCE, "an exported model")}
    return rows | {"origin, license": read_license(folder), "kept of the origin": kept_parts(spec, whole)}


def kept_parts(spec: SubnetSpec, whole: SubnetSpec) -> str:
    """Describe layers, heads, channels and widths of a subnet next to those of the whole network."""
    ours, theirs = spec.active, whole.active[0]
    parts = [
        f"{spec.depth} of {whole.depth} layers",
        f"{_range([x.num_heads for x in ours])} of {theirs.num_heads} heads",
        f"{_range([x.head_dim for x in ours])} of {theirs.head_dim} channels of a head",
        f"{_range([x.mlp_dim for x in ours])} of {theirs.mlp_dim} MLP units",
        f"{spec.embed_dim} of {whole.embed_dim} channels of the residual stream",
    ]
    return ", ".join(parts)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
