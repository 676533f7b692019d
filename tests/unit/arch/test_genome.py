"""Genomes: round trips, canonical form, sampling, and errors for specs outside the space.

References: the inverse function, counts by hand, and the published networks.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.paths import FIXTURES
from tests.helpers.strategies import elastic_spaces, genomes, spaces, spaces_and_specs
from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import published
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError

EXAMPLES = settings(max_examples=80, deadline=None)
NET_IDS = json.loads((FIXTURES / "published_nets.json").read_text())
SPACES = {"vitas-f": SearchSpace(embed_dim=768, qkv_dim=2880, mlp_dim=2880, depth=13, identity=False)}


@EXAMPLES
@given(spaces_and_specs())
def test_decode_of_encode_is_the_spec(space_and_spec):
    space, spec = space_and_spec
    row = genome.encode(space, spec)
    assert ((row >= 0) & (row < space.gene_sizes)).all()
    assert genome.decode(space, row) == spec


@EXAMPLES
@given(st.data())
def test_encode_of_decode_is_the_canonical_genome(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    for row in data.draw(genomes(space, 5)):
        spec = genome.decode(space, row)
        again = genome.encode(space, spec)
        assert genome.decode(space, again) == spec
        canonical = genome.canonical(space, again[None])[0]
        assert (canonical == genome.canonical(space, row[None])[0]).all()
        assert (genome.encode(space, spec.canonical()) == canonical).all()


@EXAMPLES
@given(st.data())
def test_canonical_is_idempotent_and_keeps_network_and_cost(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    rows = data.draw(genomes(space, 20))
    before = rows.copy()
    canonical = genome.canonical(space, rows)
    assert (rows == before).all()
    assert (genome.canonical(space, canonical) == canonical).all()
    for price in (cost.macs, cost.vitas_flops, cost.params, cost.activations):
        assert (price(genome.width_table(space, canonical)) == price(genome.width_table(space, rows))).all()
    for a, b in zip(canonical, rows, strict=True):
        assert genome.decode(space, a).canonical() == genome.decode(space, b).canonical()


def test_genomes_of_the_same_network_have_one_canonical_form():
    space = SearchSpace(depth=3)
    a, b = LayerSpec(3, 144, 144), LayerSpec(6, 288, 288)
    specs = [SubnetSpec(224, 16, 38, 1000, layers) for layers in ((None, a, b), (a, None, b), (a, b, None), (a, b))]
    rows = genome.canonical(space, np.array([genome.encode(space, spec) for spec in specs]))
    assert len({tuple(row) for row in rows}) == 1
    other = genome.encode(space, SubnetSpec(224, 16, 38, 1000, (b, a)))
    assert (genome.canonical(space, other[None])[0] != rows[0]).any()


@EXAMPLES
@given(st.data())
def test_width_table_of_genomes_equals_that_of_their_specs(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    rows = data.draw(genomes(space, 6))
    from_rows, from_specs = (
        genome.width_table(space, rows),
        WidthTable.from_specs([genome.decode(space, row) for row in rows]),
    )
    for name in ("patch_size", "embed_dim", "num_heads", "qkv_dim", "mlp_dim"):
        assert (getattr(from_rows, name) == getattr(from_specs, name)).all(), name


@EXAMPLES
@given(st.data())
def test_samples_are_networks_of_the_space(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    rows = data.draw(genomes(space, 30))
    assert rows.shape == (30, len(space.gene_sizes))
    assert ((rows >= 0) & (rows < space.gene_sizes)).all()
    depths = (genome.width_table(space, rows).num_heads > 0).sum(1)
    assert (depths >= space.min_layers).all() and (depths <= space.depth).all()
    if space.nested:
        assert (genome.canonical(space, rows) == rows).all()


def test_genes_are_uniform_and_identities_follow_their_probability():
    space = SearchSpace()
    rows = genome.sample(space, np.random.default_rng(0), 20_000, 0.4)
    layers = rows[:, 2:].reshape(-1, 16, 3)
    assert (layers[..., 0] == 4).mean() == pytest.approx(0.4, abs=0.01)
    for gene, size in ((rows[:, 0], 3), (rows[:, 1], 10), (layers[:, 5, 1], 10), (layers[:, 9, 2], 10)):
        assert np.bincount(gene, minlength=size) / len(gene) == pytest.approx(np.full(size, 1 / size), abs=0.02)
    kept = layers[..., 0][layers[..., 0] < 4]
    assert np.bincount(kept) / len(kept) == pytest.approx(np.full(4, 0.25), abs=0.01)
    even = genome.sample(space, np.random.default_rng(0), 20_000)[:, 2::3]
    assert (even == 4).mean() == pytest.approx(0.2, abs=0.01)


def test_positions_kept_for_min_depth_are_random():
    space = SearchSpace(depth=4, min_depth=2)
    rows = genome.sample(space, np.random.default_rng(0), 8000, 1.0)
    kept = rows[:, 2::3] < 4
    assert (kept.sum(1) == 2).all()
    assert kept.mean(0) == pytest.approx(np.full(4, 0.5), abs=0.03)


@pytest.mark.parametrize("name", ["vitas-a", "vitas-b", "vitas-e", "vitas-f"])
def test_genomes_of_the_first_release_are_the_published_networks(name):
    """Its genome lists all operators (patch, layers, norm, classifier), then all widths (embedding, q/k/v, MLP)."""
    space = SPACES.get(name, SearchSpace())
    net_id = [int(word) for word in NET_IDS[name]["net_id"].split()]
    operators, widths = net_id[: space.depth + 3], net_id[space.depth + 3 :]
    layers = [(operators[1 + i], widths[1 + 2 * i], widths[2 + 2 * i]) for i in range(space.depth)]
    row = np.array([operators[0], widths[0], *[gene for layer in layers for gene in layer]])
    spec = published(name, first_release=True).spec
    layers = tuple(x and LayerSpec(x.num_heads, x.qkv_dim, x.mlp_dim) for x in spec.layers)
    assert genome.decode(space, row) == SubnetSpec(224, spec.patch_size, spec.embed_dim, 1000, layers)
    canonical = genome.canonical(space, row[None])[0]
    assert (genome.encode(space, published(name).spec) == canonical).all()


def test_vitas_c_is_in_the_cell_space():
    space = SearchSpace(layout="cell", patch_sizes=(16,))
    assert list(genome.encode(space, published("vitas-c").spec)) == [0, 5, 0, 2, 4, 11]
    mixed = SubnetSpec(224, 16, 230, 1000, (LayerSpec(3, 432, 720), LayerSpec(6, 432, 720)))
    with pytest.raises(UserError, match=r"space\.layout is cell"):
        genome.encode(space, mixed)


BASE = SubnetSpec(224, 16, 230, 1000, (LayerSpec(3, 432, 720),))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SubnetSpec(192, 16, 230, 1000, BASE.layers), "image_size 192 is not one of [224]"),
        (SubnetSpec(224, 16, 230, 10, BASE.layers), "num_classes 10 is not one of [1000]"),
        (SubnetSpec(224, 8, 230, 1000, BASE.layers), "patch_size 8 is not one of [14, 16, 32]"),
        (SubnetSpec(224, 16, 231, 1000, BASE.layers), "embed_dim 231 is not one of"),
        (SubnetSpec(224, 16, 230, 1000, BASE.layers * 17), "depth 17 is not one of"),
        (SubnetSpec(224, 16, 230, 1000, (LayerSpec(4, 432, 720),)), "layers[0].num_heads 4 is not one of"),
        (SubnetSpec(224, 16, 230, 1000, (None, LayerSpec(3, 435, 720))), "layers[1].qkv_dim 435 is not one of"),
        (SubnetSpec(224, 16, 230, 1000, (LayerSpec(3, 432, 721),)), "layers[0].mlp_dim 721 is not one of"),
        (SubnetSpec(224, 16, 230, 1000, (LayerSpec(3, 432, 720, 0.2),)), "layers[0].softmax_scale 0.2"),
    ],
)
def test_a_spec_outside_the_space_is_a_one_line_error(spec, message):
    with pytest.raises(UserError) as error:
        genome.encode(SearchSpace(), spec)
    assert message in str(error.value) and "\n" not in str(error.value)


@EXAMPLES
@given(st.data())
def test_decode_all_and_encode_all_match_a_plain_loop(data):
    space = data.draw(spaces())
    rows = data.draw(genomes(space, 4))
    specs = genome.decode_all(space, rows)
    for spec, row in zip(specs, rows.tolist(), strict=True):
        stem, cells = row[:2], row[2:]
        depth = cells[3] + space.min_layers if space.layout == "cell" else space.depth
        triples = [cells[:3]] * depth if space.layout == "cell" else np.reshape(cells, (-1, 3)).tolist()
        layers = [
            None if head == len(space.num_heads) else
            LayerSpec(space.num_heads[head], space.qkv_widths[qkv], space.mlp_widths[mlp])
            for head, qkv, mlp in triples
        ]  # fmt: skip
        patch, embed = space.patch_sizes[stem[0]], space.embed_widths[stem[1]]
        layers += [None] * (space.depth - depth)
        assert spec == SubnetSpec(space.image_size, patch, embed, space.num_classes, tuple(layers))
    encoded = genome.encode_all(space, specs)
    assert (encoded == [genome.encode(space, spec) for spec in specs]).all()
    assert genome.encode_all(space, []).shape == (0, rows.shape[1])


@pytest.mark.parametrize(
    ("field", "value"), [("prefix_tokens", 2), ("classifiers", 2), ("pool", "patches"), ("layer_scale", True)]
)
def test_pretrained_networks_outside_of_the_space_are_refused(field, value):
    space = SearchSpace()
    spec = replace(genome.decode(space, genome.largest(space)), **{field: value})
    with pytest.raises(UserError, match=f"does not fit the space: {field} {value} is not one of"):
        genome.encode(space, spec)
