"""Networks on a GPU: padded and packed by Triton or torch, compiled, against float64 on the CPU without padding."""

import pytest
import torch
from torch import Tensor

from tests.helpers.devices import DEVICES, NEEDS_CUDA, device_of
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.engine.precision import autocast
from vitas_ds.models import kernels
from vitas_ds.models.extract import extract
from vitas_ds.models.flat import named_tensors
from vitas_ds.models.supernet import Supernet

CUDA = torch.device("cuda", 0)
on_gpu = [pytest.mark.gpu, NEEDS_CUDA]
MODES = ["torch", pytest.param("triton", marks=on_gpu)]
SPACE = SearchSpace(image_size=112, num_classes=13, depth=3, patch_sizes=(14, 16))
LAYERS = LayerSpec(3, 432, 720), LayerSpec(16, 144, 288), LayerSpec(12, 1008, 1440)  # head_dim 48, 3 and 28
TOLERANCE = {"fp32": 2e-5, "bf16": 5e-2}


@pytest.fixture(autouse=True)
def exact_products():
    torch.set_float32_matmul_precision("highest")
    yield
    kernels.select("auto")


def make(rule: str) -> Supernet:
    supernet = Supernet(SPACE, rule, class_token_only=True)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in named_tensors(supernet).items():
            values = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + 0.1 * values if "norm" in name and "weight" in name else 0.05 * values)
    return supernet


def results(supernet: Supernet, spec: SubnetSpec, images: Tensor, precision: str = "fp32") -> dict[str, Tensor]:
    """Return logits and gradients on the CPU in float64."""
    supernet.zero_grad()
    with autocast(precision, images.device):
        logits = supernet(images, spec)
    logits.double().square().sum().backward()
    grads = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    return {name: t.detach().cpu().double() for name, t in ({"logits": logits} | grads).items()}


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("patch_size", [14, 16])
@pytest.mark.parametrize("rule", ["ordinal", "bilateral", "cyclic"])
def test_supernet_matches_float64(rule, patch_size, precision, mode, device):
    if (device, mode) == ("cpu", "triton"):
        pytest.skip("Triton kernels need a CUDA device")
    spec = SubnetSpec(112, patch_size, 77, 13, LAYERS)
    images = torch.randn(8, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    expected = results(make(rule).double(), spec, images.double())
    kernels.select(mode)
    target = device_of(device)
    compare(results(make(rule).to(target), spec, images.to(target), precision), expected, TOLERANCE[precision])


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("rule", ["ordinal", "bilateral"])
def test_compiled_blocks_match_eager_ones(rule):
    images = torch.randn(8, 3, 112, 112, device=CUDA)
    supernet = make(rule).to(CUDA)
    specs = [SubnetSpec(112, 16, 77, 13, LAYERS), SubnetSpec(112, 14, 384, 13, LAYERS[:2])]
    eager = [results(supernet, spec, images) for spec in specs]
    supernet.compile_blocks()
    for spec, expected in zip(specs, eager, strict=True):
        compare(results(supernet, spec, images), expected, TOLERANCE["fp32"])


@pytest.mark.parametrize("device", DEVICES)
def test_extracted_networks_match_their_subnets(device):
    supernet, spec = make("bilateral").to(device_of(device)).eval(), SubnetSpec(112, 14, 77, 13, LAYERS)
    images = torch.randn(8, 3, 112, 112, device=device_of(device))
    with torch.inference_mode():
        for side, expected in zip(supernet.sides, supernet(images, spec), strict=True):
            torch.testing.assert_close(extract(supernet, spec, side)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_kernels_run_on_the_device_of_their_tensors():
    other = torch.device("cuda", 1)
    spec, images = SubnetSpec(112, 14, 77, 13, LAYERS), torch.randn(4, 3, 112, 112)
    expected = results(make("bilateral").to(CUDA), spec, images.to(CUDA))
    compare(results(make("bilateral").to(other), spec, images.to(other)), expected, 1e-6)
