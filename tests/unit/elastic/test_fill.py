"""A supernet filled with a pretrained network: the largest subnet is that of timm, the others are slices of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.timm_networks import FAMILIES, make
from tests.unit.elastic.test_reorder import random_order
from vitas_ds.arch import cost, genome
from vitas_ds.arch.elastic import elastic_fields
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.elastic.fill import fill
from vitas_ds.elastic.reorder import reorder
from vitas_ds.export.from_timm import convert
from vitas_ds.models.extract import extract
from vitas_ds.models.supernet import Supernet
from vitas_ds.models.vit import VisionTransformer

CHOICES = {
    "num_heads": (1, 2, 3), "embed_ratios": (0.75, 1.0), "qkv_ratios": (0.25, 0.625, 1.0),
    "mlp_ratios": (0.25, 0.5, 1.0), "min_depth": 1,
}  # fmt: skip
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def space_of(spec: SubnetSpec, drop_order=(0, 1)) -> SearchSpace:
    fields = elastic_fields(spec)
    return SearchSpace(**fields | CHOICES | {"elastic": fields["elastic"] | {"drop_order": drop_order}})


def filled(model: VisionTransformer, rule="ordinal", **options) -> Supernet:
    supernet = Supernet(space_of(model.spec), rule, **{"private_attention": 0} | options)
    supernet.to(model.pos_embed.dtype)
    fill(supernet, model.state_dict())
    return supernet.eval()


def reordered_model(family: str, dtype=torch.float64) -> tuple[VisionTransformer, torch.Tensor]:
    """Return a reordered network of timm, and the logits of timm's own network."""
    reference = make(family).to(dtype)
    model = convert(reference, reference.state_dict())
    reorder(model, random_order(model.spec, 3))
    with torch.no_grad():
        return model, reference(IMAGES.to(dtype))


def largest_logits(supernet: Supernet) -> torch.Tensor:
    with torch.no_grad():
        dtype = next(supernet.parameters()).dtype
        return supernet(IMAGES.to(dtype), genome.decode(supernet.space, genome.largest(supernet.space)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("ordinal", {}),
        ("bilateral", {"class_token_only": True}),
        ("cyclic", {"private_attention": 2, "private_norms": True}),
    ],
)
def test_the_largest_subnet_has_the_logits_of_timm(family, rule, options):
    model, expected = reordered_model(family)
    logits = largest_logits(filled(model, rule, **options))
    assert (logits - expected).abs().max() <= 1e-9 * expected.abs().max()
    model, expected = reordered_model(family, torch.float32)
    logits = largest_logits(filled(model, rule, **options))
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_mutants_have_other_logits(family):
    model, expected = reordered_model(family)
    limit = 1e-9 * expected.abs().max()
    supernet = filled(model)
    elastic, spec = supernet.space.elastic, genome.decode(supernet.space, genome.largest(supernet.space))
    layer = spec.active[0]
    mutants = [
        replace(spec, norm_eps=10 * elastic.norm_eps),
        replace(spec, final_norm_eps=10 * elastic.final_norm_eps),
        replace(spec, layers=(replace(layer, softmax_scale=1.01 * layer.head_dim**-0.5),) * 2),
    ]
    for mutant in mutants:
        with torch.no_grad():
            assert (supernet(IMAGES, mutant) - expected).abs().max() > limit, mutant
    tensors = supernet.state_dict()
    saved = {name: value.clone() for name, value in tensors.items()}
    for name, value in saved.items():
        if name.endswith("k_bias") or not value.any():  # the softmax does not depend on the bias of k
            continue
        supernet.load_state_dict(saved | {name: value.roll(1, -1)})
        assert (largest_logits(supernet) - expected).abs().max() > limit, name


def centered(side: str, width: int, core: int, full: int) -> list[int]:
    """Return the channels of a side, grown one by one from the core in the middle."""
    low = (full - core) // 2
    high = low + core
    while high - low < width:
        if (low > 0) if side == "left" else (high == full):
            low -= 1
        else:
            high += 1
    return list(range(low, high))


def sliced(model: VisionTransformer, spec: SubnetSpec, side: str | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a subnet by lists of channels, one tensor after the other."""
    full = model.spec.active[0]

    def units(width: int, core: int, whole: int) -> list[int]:
        return centered(side, width, core, whole) if side else list(range(width))

    D = units(spec.embed_dim, 36, 48)
    tensors = model.state_dict()
    found = {name: tensors[name][..., D] for name in ("cls_token", "pos_embed", "norm.weight", "norm.bias")}
    found |= {f"patch_embed.proj.{kind}": tensors[f"patch_embed.proj.{kind}"][D] for kind in ("weight", "bias")}
    for name in (n for n in tensors if n.startswith("head")):
        found[name] = tensors[name][:, D] if name.endswith("weight") else tensors[name]
    for new, (old, layer) in enumerate((i, x) for i, x in enumerate(spec.layers) if x):
        heads = units(layer.num_heads, 1, 3)
        v = [h * full.head_dim + c for h in heads for c in range(layer.head_dim)]
        qkv = [x * full.attn_dim + c for x in range(3) for c in v]
        mlp = units(layer.mlp_dim, 48, 192)
        rows = {"attn.qkv": qkv, "attn.proj": D, "mlp.fc1": mlp, "mlp.fc2": D}
        columns = {"attn.qkv": D, "attn.proj": v, "mlp.fc1": D, "mlp.fc2": mlp}
        for name in (n for n in tensors if n.startswith(f"blocks.{old}.")):
            tail = name.removeprefix(f"blocks.{old}.")
            module, kind = tail.rsplit(".", 1)
            value = tensors[name][rows.get(module, D)]
            is_matrix = module in columns and kind == "weight"
            found[f"blocks.{new}.{tail}"] = value[:, columns[module]] if is_matrix else value
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [None, "left", "right"])
def test_every_subnet_is_a_slice_of_the_network_and_equals_its_extracted_net(family, side):
    model, _ = reordered_model(family)
    supernet = filled(model, "bilateral" if side else "ordinal", private_attention=2 if side else 0)
    rng = np.random.default_rng(0)
    for spec in genome.decode_all(supernet.space, genome.sample(supernet.space, rng, 6)):
        net = extract(supernet, spec, side)
        expected = sliced(model, spec, side)
        assert net.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
        with torch.no_grad():
            logits = supernet(IMAGES, spec, [side] if side else None)[0]
        assert torch.equal(net(IMAGES), logits)
        assert (supernet(IMAGES, spec.canonical(), [side] if side else None)[0] == logits).all()


def test_each_step_changes_only_the_used_units():
    model, _ = reordered_model("dinov2")
    supernet = filled(model)
    spec = genome.decode(supernet.space, genome.smallest(supernet.space))
    assert spec.layers[0] is None and supernet.units_used(spec) == {"patch8", "layer1", "head"}
    supernet(IMAGES, spec).sum().backward()
    with_gradient = {unit for unit, (p, *_) in supernet.units().items() if p.grad is not None and p.grad.any()}
    assert with_gradient == {"patch8", "layer1", "head"}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_executed_macs_are_those_of_the_genome(family):
    model, _ = reordered_model(family)
    supernet = filled(model)
    rows = genome.sample(supernet.space, np.random.default_rng(1), 4)
    counted = cost.macs(genome.width_table(supernet.space, rows))
    for spec, macs in zip(genome.decode_all(supernet.space, rows), counted.tolist(), strict=True):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            supernet(IMAGES, spec)
        assert counter.get_total_flops() / 2 / len(IMAGES) == macs == cost.spec_macs(spec)


@pytest.mark.parametrize("rule", ["ordinal", "bilateral"])
def test_padding_to_the_widths_of_gpus_changes_no_logit(rule):
    model, _ = reordered_model("registers, averaged patches")
    supernet = filled(model, rule)
    for spec in genome.decode_all(supernet.space, genome.sample(supernet.space, np.random.default_rng(2), 4)):
        with torch.no_grad():
            supernet.pad_multiple = 1
            expected = supernet(IMAGES, spec)
            supernet.pad_multiple = 8
            assert (supernet(IMAGES, spec) - expected).abs().max() < 1e-12
