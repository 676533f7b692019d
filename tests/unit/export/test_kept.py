"""Rows of the model card of a subnet of a pretrained network. Reference: written by hand."""

from __future__ import annotations

from pathlib import Path

from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.export.folder import Preprocess, write_model
from vitas_ds.export.kept import kept_parts, origin_facts
from vitas_ds.models.vit import VisionTransformer

WHOLE = SubnetSpec(28, 7, 32, 10, (LayerSpec(4, 96, 64),) * 3)
SPEC = SubnetSpec(28, 7, 24, 10, (LayerSpec(2, 24, 64), LayerSpec(3, 72, 16)))


def test_kept_parts() -> None:
    expected = (
        "2 of 3 layers, 2 to 3 of 4 heads, 4 to 8 of 8 channels of a head, 16 to 64 of 64 MLP units, "
        "24 of 32 channels of the residual stream"
    )
    assert kept_parts(SPEC, WHOLE) == expected
    assert kept_parts(WHOLE, WHOLE).startswith("3 of 3 layers, 4 of 4 heads, 8 of 8")


def test_the_card_states_origin_and_license(tmp_path: Path) -> None:
    facts = {"architecture": "timm:vit_x", "weights": "x.safetensors", "accuracy": "other"}
    write_model(VisionTransformer(WHOLE), tmp_path / "a", Preprocess(), "a", facts, license="cc-by-nc-4.0")
    rows = origin_facts(tmp_path / "a", SPEC)
    assert rows["origin, architecture"] == "timm:vit_x" and rows["origin, license"] == "cc-by-nc-4.0"
    assert "accuracy" not in " ".join(rows) and str(rows["kept of the origin"]).startswith("2 of 3 layers")
