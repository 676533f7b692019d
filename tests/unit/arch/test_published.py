"""The published networks against the tables of ViTAS and DeiT."""

import json

import pytest

from tests.helpers.paths import FIXTURES
from vitas_ds.arch.cost import macs, params, vitas_flops
from vitas_ds.arch.published import find_spec, names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.errors import UserError

FACTS = json.loads((FIXTURES / "published_nets.json").read_text())
# name: FLOPs of the paper, FLOPs of the first release, exact MACs, parameters, top-1, top-5
TABLE = {
    "vitas-a": ("858M", 858_652_480, 833_487_568, 3_679_478, 71.1, 89.8),
    "vitas-b": ("1.0G", 990_624_768, 958_618_176, 4_400_248, 72.4, 90.6),
    "vitas-c": ("1.3G", 1_303_042_496, 1_265_114_864, 6_048_414, 74.7, 92.0),
    "vitas-e": ("2.7G", 2_706_797_632, 2_653_906_672, 12_550_598, 77.4, 93.8),
    "vitas-f": ("4.9G", 4_930_994_656, 4_898_506_168, 22_540_277, 80.6, 95.1),
    "deit-ti": ("1.3G", 1_284_003_840, 1_254_000_000, 5_717_416, 72.2, None),
    "deit-s": ("4.6G", 4_648_906_752, 4_599_000_000, 22_050_664, 79.8, None),
}


def test_all_networks_of_the_tables_exist():
    assert set(names()) == set(TABLE)
    assert set(FACTS) - {"about"} == {name for name in TABLE if name.startswith("vitas")}


@pytest.mark.parametrize("name", TABLE)
def test_costs_match_the_tables(name):
    flops, first_release, exact, count, top1, top5 = TABLE[name]
    net = published(name)
    table = WidthTable.from_specs([net.spec])
    assert vitas_flops(table)[0] == first_release
    assert params(table)[0] == count
    if name.startswith("vitas"):
        assert macs(table)[0] == exact
    else:  # known to four digits
        assert round(macs(table)[0] / 1e9, 3) == exact / 1e9
    assert (net.name, net.table_flops, net.top1, net.top5) == (name, flops, top1, top5)


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("vitas")])
def test_layers_match_the_first_release(name):
    fact, spec = FACTS[name], published(name, first_release=True).spec
    assert (spec.image_size, spec.num_classes) == (224, 1000)
    assert (spec.patch_size, spec.embed_dim) == (fact["patch_size"], fact["embed_dim"])
    rows = [x and [x.num_heads, x.qkv_dim, x.mlp_dim, x.softmax_scale] for x in spec.layers]
    assert rows == fact["layers"]
    assert spec.final_norm_eps == 1e-5


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("vitas")])
def test_softmax_scale_of_the_first_release_is_embed_dim_over_heads(name):
    """Retrained networks of the first release use (embed_dim // heads) ** -0.5, ours head_dim ** -0.5."""
    old = published(name, first_release=True).spec
    for layer in old.active:
        assert layer.softmax_scale == pytest.approx((old.embed_dim // layer.num_heads) ** -0.5, rel=1e-9)
    new = published(name).spec
    assert all(layer.softmax_scale is None for layer in new.active)
    assert new.final_norm_eps == 1e-6
    assert None not in new.layers
    assert [(x.num_heads, x.qkv_dim, x.mlp_dim) for x in new.active] == [
        (x.num_heads, x.qkv_dim, x.mlp_dim) for x in old.active
    ]


def test_find_spec(tmp_path):
    assert find_spec("vitas-c") == published("vitas-c").spec
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(published("vitas-a").spec.to_dict()))
    assert find_spec(str(path)) == published("vitas-a").spec
    for argument, message in (
        ("vitas-d", "neither a spec file nor a published network"),
        ("no/such.json", "no such spec file"),
        (str(tmp_path), "neither a spec file"),
    ):
        with pytest.raises(UserError, match=message) as error:
            find_spec(argument)
        assert argument in str(error.value)
    with pytest.raises(UserError, match="no such published network; choose from vitas-a"):
        published("vitas-d")
