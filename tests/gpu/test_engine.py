"""The engine on a GPU: computes in the configured precision, and deterministically.

References: the dtypes that torch reports, and a second run.
"""

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import toy_supernet as toy
from tests.helpers.devices import DEVICES, device_of
from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.distributed import comm
from vitas_ds.engine.precision import autocast, set_backends
from vitas_ds.models.layers import init_weights
from vitas_ds.models.supernet import Supernet

SPACE = SearchSpace(depth=2)
SPEC = SubnetSpec(224, 14, 230, 1000, (LayerSpec(3, 432, 720), LayerSpec(6, 864, 1008)))


@pytest.fixture(params=DEVICES)
def ranks(request):
    yield comm.init(request.param, timeout=60)
    comm.close()


def test_bf16_reaches_the_network(ranks):
    """DeepSpeed disables an autocast context around its forward pass."""
    engine = toy.start(toy.Case(precision="bf16"), ranks)
    x, _ = toy.batch_of(0, 4)
    assert engine(x.to(ranks.device), toy.subnets_of(0, 1)[0]).dtype == torch.bfloat16


def gradients(supernet: Supernet, images: Tensor, labels: Tensor, precision: str) -> dict[str, Tensor]:
    supernet.zero_grad()
    with autocast(precision, images.device):
        logits = supernet(images, SPEC)
    nn.functional.cross_entropy(logits.float().sum(0), labels).backward()
    return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_deterministic_gradients_repeat_bitwise(precision, device):
    """257 tokens: with more than one block of keys, the backward pass of attention uses atomic adds by default."""
    supernet = Supernet(SPACE, "bilateral")
    init_weights(supernet, 0)
    supernet.to(device_of(device))
    batch = 64 if device == "cuda" else 2
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator).to(device_of(device))
    labels = torch.randint(1000, (batch,), generator=generator).to(device_of(device))
    try:
        set_backends(config.Engine(deterministic=True))
        first, *others = [gradients(supernet, images, labels, precision) for _ in range(3)]
    finally:
        set_backends(config.Engine())
    for other in others:
        assert [name for name in first if not torch.equal(first[name], other[name])] == []
