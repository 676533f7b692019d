"""Hypothesis strategies: small random search spaces, and random genomes and specs of them."""

import math

import numpy as np
from hypothesis import strategies as st

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace


@st.composite
def spaces(draw, layouts: tuple[str, ...] = ("layer", "cell"), max_depth: int = 4) -> SearchSpace:
    """Draw a search space of any valid shape, small enough to run."""
    image = draw(st.sampled_from([12, 16, 24]))
    patches = draw(st.sets(st.sampled_from([p for p in (4, 6, 8, 12) if image % p == 0]), min_size=1))
    heads = draw(st.sets(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3))
    unit = 3 * math.lcm(*heads)
    depth = draw(st.integers(1, max_depth))
    return SearchSpace(
        image_size=image,
        num_classes=draw(st.integers(2, 7)),
        patch_sizes=sorted(patches),
        num_heads=sorted(heads),
        depth=depth,
        identity=draw(st.booleans()),
        min_depth=draw(st.integers(1, depth)),
        identity_shift=draw(st.booleans()),
        layout=draw(st.sampled_from(layouts)),
        **draw(widths("embed", 1)),
        **draw(widths("qkv", unit)),
        **draw(widths("mlp", 1)),
    )


@st.composite
def elastic_spaces(draw, max_depth: int = 4) -> SearchSpace:
    """Draw a space of subnets of a pretrained network, of any valid shape."""
    depth = draw(st.integers(1, max_depth))
    heads = sorted(draw(st.sets(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=3)))
    head_dim = draw(st.sampled_from([2, 4, 6]))
    kept = sorted(draw(st.sets(st.integers(1, head_dim), max_size=2)) | {head_dim})
    order = draw(st.permutations(range(depth)))
    tokens = draw(st.integers(1, 3))
    pool = draw(st.sampled_from(["class", "patches"]))
    network = {
        "prefix_tokens": tokens, "classifiers": draw(st.integers(1, min(tokens, 2) if pool == "class" else 1)),
        "pool": pool, "layer_scale": draw(st.booleans()), "norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "final_norm_eps": draw(st.sampled_from([1e-6, 1e-3])), "softmax_scale": draw(st.sampled_from([None, 0.3])),
    }  # fmt: skip
    return SearchSpace(
        image_size=12, num_classes=draw(st.integers(2, 7)), patch_sizes=(draw(st.sampled_from([4, 6])),),
        num_heads=heads, depth=depth, identity=draw(st.booleans()), min_depth=draw(st.integers(1, depth)),
        qkv_dim=3 * heads[-1] * head_dim, qkv_ratios=[k / head_dim for k in kept],
        elastic=network | {"head_dim": head_dim, "drop_order": draw(st.sampled_from([None, tuple(order)]))},
        **draw(widths("embed", 1)), **draw(widths("mlp", 1)),
    )  # fmt: skip


@st.composite
def widths(draw, name: str, unit: int) -> dict:
    """Draw ``{name}_dim`` and ``{name}_ratios``: ascending widths, all multiples of ``unit``, evenly spaced or not."""
    steps = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=5)))
    full = unit * steps[-1]
    ratios = [unit * step / full for step in steps]
    return {f"{name}_dim": full, f"{name}_ratios": ratios}


@st.composite
def genomes(draw, space: SearchSpace, count: int = 1) -> np.ndarray:
    """Draw random genomes [count, G] of a space, with any identity probability."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    prob = draw(st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]))
    return genome.sample(space, rng, count, prob)


@st.composite
def spaces_and_specs(draw, **options) -> tuple:
    """Draw a small space and a random spec of it."""
    space = draw(spaces(**options))
    return space, genome.decode(space, draw(genomes(space))[0])
