"""A plain network as a program of torch.export and as ONNX, float32 and int8, each run against PyTorch.

The number of images is free; all else is fixed. What is written holds no path of this machine: the traces that torch
keeps of the source code are taken out.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from vitas_ds.errors import UserError
from vitas_ds.models.vit import VisionTransformer

ATOL, RTOL = 1e-4, 1e-5  # logits may differ by ATOL, or by RTOL of the largest where that is above 10
Net = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> logits [B, classes]


def require(*packages: str) -> None:
    """Raise ``UserError`` if a package of the extra ``export`` is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)}: not installed; pip install -e '.[export]'")


def trace(model: VisionTransformer) -> ExportedProgram:
    """The network as a graph, for any number of images."""
    size = model.spec.image_size
    program = torch.export.export(model, (torch.zeros(2, 3, size, size),), dynamic_shapes=_shapes())
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program


def _shapes() -> Any:
    return ({0: Dim("batch", min=1)},)


def write_program(program: ExportedProgram, path: Path) -> Net:
    """Write what ``torch.export.load`` reads; returns the file's net."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


def write_onnx(program: ExportedProgram, path: Path, opset: int) -> Net:
    """Write ONNX in one file: images [batch, 3, H, W] -> logits [batch, classes]; returns the file's net.

    Raises:
        UserError: onnx, onnxscript or onnxruntime is not installed.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnx

    with warnings.catch_warnings(action="ignore"):
        exported = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], opset_version=opset, dynamic_shapes=_shapes(),
            verbose=False,
        )  # fmt: skip
    assert exported is not None, "dynamo returns a program"
    proto = exported.model_proto
    graph = proto.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return open_onnx(path)


def quantise(source: Path, path: Path) -> Net:
    """Write a copy of an ONNX file whose linear layers have int8 weights, a scale for each channel; returns its net.

    Activations are quantised as they come (dynamic quantisation). Attention's products of activations stay float32.
    Weights take 7 of the 8 bits: the sums of two products of 8 bits overflow on CPUs without VNNI, silently.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load(source)
    del proto.graph.value_info[:]  # the quantiser transposes weights and then stumbles over their recorded shapes
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # advice to optimise the graph first, which torch has done
    try:
        quantize_dynamic(
            proto, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
            reduce_range=True,
        )  # fmt: skip
    finally:
        logging.disable(before)
    return open_onnx(path)


def open_onnx(path: Path) -> Net:
    """The net of an ONNX file, run by onnxruntime on the CPU: float32 images, on any device, to logits on the CPU.

    Raises:
        UserError: onnxruntime is not installed, or the file is none of ours.
    """
    require("onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise UserError(f"{path}: no such file; export.onnx=true and export.int8=true make the export stage write them")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each of onnxruntime's is a class of its own
        raise UserError(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())}") from None
    names = [[node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
    if names != [["images"], ["logits"]]:
        raise UserError(f"{path}: not an ONNX file of this project: it has inputs {names[0]}, outputs {names[1]}")

    def net(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.float().cpu().numpy()})
        return torch.from_numpy(logits)

    return net


def difference(model: VisionTransformer, net: Net) -> tuple[float, float]:
    """The largest difference in logits between ``net`` and the model, and the model's largest logit.

    On noise, one image and three at once.
    """
    size = model.spec.image_size
    batches = [torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n)) for n in (1, 3)]
    with torch.inference_mode():
        ours, theirs = (torch.cat([one(images) for images in batches]) for one in (model, net))
    return (ours - theirs).abs().max().item(), ours.abs().max().item()


def check(model: VisionTransformer, net: Net, name: str) -> float:
    """The largest difference in logits. Raises ``RuntimeError`` if it is more than rounding explains."""
    apart, top = difference(model, net)
    limit = max(ATOL, RTOL * top)
    if not apart <= limit:
        raise RuntimeError(f"{name}: logits differ by {apart:.1e} from PyTorch's, more than {limit:.1e}")
    return apart
