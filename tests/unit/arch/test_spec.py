"""Specs and spec.json: round trip, canonical form, and one-line errors.

References: the inverse function, and files and counts written by hand.
"""

import json

import pytest
from hypothesis import given

from tests.helpers.strategies import spaces_and_specs
from vitas_ds.arch.cost import activations, macs, params, vitas_flops
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, read_spec, spec_from_dict
from vitas_ds.errors import UserError

GOOD = {
    "image_size": 224,
    "patch_size": 16,
    "embed_dim": 230,
    "num_classes": 1000,
    "layers": [{"num_heads": 3, "qkv_dim": 432, "mlp_dim": 720}],
}


@given(spaces_and_specs())
def test_canonical_is_idempotent_and_keeps_every_cost(space_and_spec):
    _, spec = space_and_spec
    canonical = spec.canonical()
    assert canonical.canonical() == canonical
    assert None not in canonical.layers
    assert canonical.active == spec.active and canonical.depth == spec.depth
    for price in (macs, vitas_flops, params, activations):
        assert price(WidthTable.from_specs([canonical])) == price(WidthTable.from_specs([spec]))


@given(spaces_and_specs())
def test_dict_round_trip_is_the_canonical_spec(space_and_spec):
    _, spec = space_and_spec
    assert spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec.canonical()


@pytest.mark.parametrize("name", [n for n in names() if n.startswith("vitas")])
def test_imported_networks_keep_softmax_scale_and_eps(name, tmp_path):
    spec = published(name, first_release=True).spec
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_dict()))
    read = read_spec(path)
    assert read == spec.canonical()
    assert read.final_norm_eps == 1e-5
    assert [layer.softmax_scale for layer in read.active] == [layer.softmax_scale for layer in spec.active]


PRETRAINED = {"norm_eps": 1e-5, "prefix_tokens": 5, "classifiers": 2, "layer_scale": True}


def test_spec_json_of_pretrained_networks():
    assert spec_from_dict(GOOD | PRETRAINED).to_dict() == GOOD | PRETRAINED
    spec = spec_from_dict(GOOD | {"pool": "patches", "prefix_tokens": 5})
    assert spec.canonical() == spec and spec.num_tokens == 201 and not spec.reads_class_token_only


@pytest.mark.parametrize(
    "change",
    [{"classifiers": 2}, {"classifiers": 2, "prefix_tokens": 2, "pool": "patches"}, {"pool": "max"},
     {"prefix_tokens": 0}, {"classifiers": 3, "prefix_tokens": 3}],
)  # fmt: skip
def test_tokens_that_do_not_exist_are_refused(change):
    with pytest.raises(UserError, match=r"classifiers|pool|prefix_tokens"):
        spec_from_dict(GOOD | change)


def test_the_mean_of_the_patches_has_one_classifier():
    change = {"classifiers": 2, "prefix_tokens": 3, "pool": "patches"}
    with pytest.raises(UserError, match=r"^spec: classifiers 2 needs pool class: the mean of the patches has one"):
        spec_from_dict(GOOD | change)


def test_spec_json_has_fixed_keys_and_no_defaults():
    spec = SubnetSpec(224, 16, 230, 1000, (LayerSpec(3, 432, 720), None))
    assert spec.to_dict() == GOOD
    assert spec_from_dict(GOOD) == spec.canonical()
    assert (spec.num_patches, spec.depth, spec.active[0].attn_dim, spec.active[0].head_dim) == (196, 1, 144, 48)


def layer(**change) -> dict:
    return GOOD | {"layers": [GOOD["layers"][0] | change]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "mapping of keys"),
        ({}, "image_size: Field required"),
        (GOOD | {"embed": 1}, "embed: unknown key"),
        (GOOD | {"embed_dim": "230"}, "embed_dim: Input should be a valid integer (given: '230')"),
        (GOOD | {"embed_dim": 230.5}, "embed_dim"),
        (GOOD | {"embed_dim": True}, "embed_dim"),
        (GOOD | {"embed_dim": 0}, "embed_dim: Input should be greater than 0 (given: 0)"),
        (GOOD | {"patch_size": 15}, "image_size 224 is not a multiple of patch_size 15"),
        (GOOD | {"layers": []}, "layers"),
        (layer(num_heads=5), "layers[0].qkv_dim 432 is not a multiple of 3 * num_heads = 15"),
        (layer(heads=5), "layers.0.heads: unknown key"),
        (layer(softmax_scale=-1.0), "layers.0.softmax_scale"),
        (layer(softmax_scale=float("inf")), "layers.0.softmax_scale: Input should be a finite number"),
    ],
)
def test_errors_are_one_line_with_the_name_of_the_field(data, message, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError) as error:
        read_spec(path)
    line = str(error.value)
    assert line.startswith(f"{path}: ") and message in line and "\n" not in line


def test_invalid_spec_files(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    for path, message in (
        ("a.json", "not a JSON file"),
        ("b.json", "line 1: not UTF-8"),
        ("c.json", "no such spec file"),
    ):
        with pytest.raises(UserError, match=message):
            read_spec(tmp_path / path)
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_spec(tmp_path)


def test_a_file_may_contain_the_spec_under_a_key(tmp_path):
    (tmp_path / "best.json").write_text(json.dumps({"score": 0.5, "spec": GOOD}))
    assert read_spec(tmp_path / "best.json") == spec_from_dict(GOOD)
