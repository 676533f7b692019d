"""Exported graphs: logits of onnxruntime and of the torch.export program equal the network's."""

import re
import sys
import zipfile

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tests.helpers.networks import random_network
from tests.helpers.strategies import spaces_and_specs
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError
from vitas_ds.export import to_onnx

pytestmark = pytest.mark.slow

SPEC = SubnetSpec(24, 8, 36, 9, (LayerSpec(2, 36, 50), LayerSpec(3, 45, 20, 0.3)), 1e-5)


def noise(spec: SubnetSpec, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(batch + 10))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Write a network as ONNX, int8 ONNX and program files."""
    folder, model = tmp_path_factory.mktemp("graphs"), random_network(SPEC)
    program = to_onnx.trace(model)
    to_onnx.write_onnx(program, folder / "model.onnx", 20)
    to_onnx.quantize(folder / "model.onnx", folder / "model_int8.onnx")
    to_onnx.write_program(program, folder / "model.pt2")
    return folder, model


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_onnx_in_onnxruntime(written, batch):
    folder, model = written
    images = noise(SPEC, batch)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
        assert torch.equal(to_onnx.open_onnx(folder / "model.onnx")(images), torch.from_numpy(found))
    assert expected.std() > 0.3


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opset_and_batch_axis(tmp_path, opset):
    model = random_network(SPEC)
    path = tmp_path / "model.onnx"
    forward = to_onnx.write_onnx(to_onnx.trace(model), path, opset)
    proto = onnx.load(path)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", opset)]
    shapes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]
              for x in (proto.graph.input[0], proto.graph.output[0])]  # fmt: skip
    assert shapes == [["batch", 3, 24, 24], ["batch", 9]]
    assert to_onnx.check_logits(model, forward, "model.onnx") < 1e-4
    int8 = to_onnx.quantize(path, tmp_path / "int8.onnx")
    difference, largest = to_onnx.logit_difference(model, int8)
    assert 0 < difference < 0.1 * largest


@settings(max_examples=3)
@given(spaces_and_specs())
def test_any_network(tmp_path_factory, space_and_spec):
    spec = space_and_spec[1]
    folder, model = tmp_path_factory.mktemp("any"), random_network(spec)
    program = to_onnx.trace(model)
    forwards = [
        to_onnx.write_onnx(program, folder / "a.onnx", 20),
        to_onnx.write_program(program, folder / "a.pt2"),
    ]
    with torch.no_grad():
        for batch in (1, 4):
            for forward in forwards:
                torch.testing.assert_close(forward(noise(spec, batch)), model(noise(spec, batch)), rtol=1e-5, atol=1e-4)


def test_program_round_trip(written):
    """Not bit for bit: on some CPUs, matrix products round differently if weights have another alignment in memory."""
    folder, model = written
    forward = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):  # the program uses torch's own matrix products
        for batch in (1, 5):
            expected = model(noise(SPEC, batch))
            torch.testing.assert_close(forward(noise(SPEC, batch)), expected, rtol=0, atol=1e-6)  # about 8 ulp of 1


class FakeInt8(TorchFunctionMode):
    """Simulate linear layers with dynamic quantization.

    Activations are uint8, scaled by the range of the whole tensor (including 0). Weights have 7 bits, scaled by the
    largest weight of each row. Sums are exact.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        x, weight, bias = args
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        scale = (high - low) / 255
        zero = (-low / scale).round()
        x = ((x / scale).round() + zero).clamp(0, 255).sub(zero) * scale
        unit = weight.abs().amax(1, keepdim=True) / 64
        weight = (weight / unit).round().clamp(-64, 64) * unit
        return func(x, weight, bias)


def test_int8_against_a_plain_simulation(written, monkeypatch):
    folder, model = written
    images = noise(SPEC, 6)
    found = to_onnx.open_onnx(folder / "model_int8.onnx")(images)
    with torch.no_grad():
        exact = model(images)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # otherwise, it does not call F.linear
        with FakeInt8():
            simulated = model(images)
    distance = (found - exact).abs().mean()
    assert 1e-4 < distance < 0.1 * exact.std()
    assert (found - simulated).abs().mean() < 0.25 * distance  # the rest are values that round differently


def test_int8_weights(written):
    folder, _ = written
    graph = onnx.load(folder / "model_int8.onnx").graph
    products = sum(node.op_type == "MatMulInteger" for node in graph.node)
    assert products == 1 + 4 * SPEC.depth + 1  # patch embedding, layers, classifier
    weights = [x for x in graph.initializer if x.data_type == onnx.TensorProto.INT8 and len(x.dims) == 2]
    assert len(weights) == products


def test_files_contain_no_path_of_this_machine(written):
    folder, _ = written
    archive = zipfile.ZipFile(folder / "model.pt2")
    texts = [archive.read(name) for name in archive.namelist()]
    texts += [(folder / name).read_bytes() for name in ("model.onnx", "model_int8.onnx")]
    for text in texts:
        assert not re.findall(rb"[\w/]+\.py\b", text)


def test_check_logits_detects_another_network(written):
    _, model = written
    assert to_onnx.check_logits(model, random_network(SPEC), "same") == 0
    with pytest.raises(RuntimeError, match=r"other: logits differ by 2\.0e-04"):
        to_onnx.check_logits(model, lambda x: model(x) + 2e-4, "other")
    with pytest.raises(RuntimeError, match="differ by nan"):
        to_onnx.check_logits(model, lambda x: model(x) * float("nan"), "other")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_a_one_line_error(written, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)  # marks a module as not installed
    with pytest.raises(UserError, match=rf"^{missing}: not installed; pip install -e '\.\[export\]'$"):
        to_onnx.write_onnx(to_onnx.trace(written[1]), tmp_path / "model.onnx", 20)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.onnx: no such file"):
        to_onnx.open_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no protobuf")
    with pytest.raises(UserError, match=r"text\.onnx: onnxruntime cannot load it") as error:
        to_onnx.open_onnx(tmp_path / "text.onnx")
    assert "\n" not in str(error.value)
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "other", [x], [y])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="not an ONNX file of this project"):
        to_onnx.open_onnx(tmp_path / "other.onnx")
