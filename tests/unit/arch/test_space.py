"""Search spaces: widths of the published spaces, validation, smallest and largest network, size.

References: the widths of the published spaces, and counts over random networks.
"""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.helpers.strategies import elastic_spaces, genomes, spaces
from vitas_ds.arch import cost, genome
from vitas_ds.arch.space import SearchSpace, WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec, check_spec
from vitas_ds.errors import first_error


def test_the_1g_space_is_the_default():
    space = SearchSpace()
    assert space.embed_widths == (38, 77, 115, 154, 192, 230, 269, 307, 346, 384)
    assert space.qkv_widths == tuple(range(144, 1441, 144))
    assert space.attn_widths == tuple(range(48, 481, 48))
    assert space.mlp_widths == tuple(range(144, 1441, 144))
    assert len(space.gene_sizes) == 2 + 3 * 16
    assert list(space.gene_sizes[:5]) == [3, 10, 5, 10, 10]


def test_number_of_networks_of_the_1g_space():
    """The paper counts every placement of identities: 30 * 401 ** 16 = 1.3e43. There are fewer distinct networks."""
    assert pytest.approx(1.34e43, rel=0.01) == 30 * 401**16
    assert genome.count_subnets(SearchSpace()) == sum(30 * 400**depth for depth in range(1, 17))


@settings(max_examples=25, deadline=None)
@given(st.one_of(spaces(max_depth=2), elastic_spaces(max_depth=2)))
def test_number_of_networks_equals_that_of_all_enumerated_genomes(space):
    if math.prod(space.gene_sizes.tolist()) > 20_000:
        return
    rows = itertools.product(*(range(size) for size in space.gene_sizes))
    nets = {genome.decode(space, row).canonical() for row in rows}
    assert genome.count_subnets(space) == sum(net.depth >= space.min_layers for net in nets)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_costs_are_between_those_of_the_smallest_and_largest_network(data):
    space = data.draw(st.one_of(spaces(), elastic_spaces()))
    rows = data.draw(genomes(space, 50))
    table = genome.width_table(space, rows)
    for price in (cost.macs, cost.vitas_flops):
        ends = [price(genome.width_table(space, end(space)[None]))[0] for end in (genome.smallest, genome.largest)]
        assert (ends[0] <= price(table)).all() and (price(table) <= ends[1]).all()


@given(spaces())
def test_every_network_of_a_valid_space_is_valid(space):
    for qkv, heads, patch in itertools.product(space.qkv_widths, space.num_heads, space.patch_sizes):
        check_spec(SubnetSpec(space.image_size, patch, space.embed_dim, 2, (LayerSpec(heads, qkv, 1),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_sizes": [15]}, "patch_sizes: 15 does not divide image_size 224"),
        ({"patch_sizes": [32, 16]}, "patch_sizes must be positive and strictly increasing"),
        ({"patch_sizes": []}, "patch_sizes"),
        ({"num_heads": [0, 3]}, "num_heads must be positive and strictly increasing (given: [0, 3])"),
        ({"num_heads": [3, 7]}, "is not a multiple of 3 * 7 heads"),
        ({"ratios": [0.5, 0.9]}, "ratios must end with 1.0"),
        ({"ratios": [0.5, 0.5, 1.0]}, "ratios must be positive and strictly increasing"),
        ({"ratios": [float("nan"), 1.0]}, "ratios.0: Input should be a finite number"),
        ({"embed_dim": 3}, "embed_dim 3 is too small for its ratios"),
        ({"min_depth": 17}, "min_depth 17 is greater than depth 16"),
        ({"depth": 0}, "depth"),
        ({"heads": [3]}, "heads: unknown key"),
        ({"layout": "row"}, "layout"),
        ({"num_classes": 1}, "num_classes"),
    ],
)
def test_invalid_spaces_are_errors(change, message):
    with pytest.raises(ValidationError) as error:
        SearchSpace(**change)
    assert message in first_error(error.value)


def test_a_width_table_needs_equal_image_sizes():
    nets = [SubnetSpec(size, 16, 10, 5, (LayerSpec(1, 3, 3),)) for size in (32, 64)]
    with pytest.raises(AssertionError):
        WidthTable.from_specs(nets)
