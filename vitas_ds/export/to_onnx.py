"""Export a network with torch.export and as ONNX, in float32 and int8, and compare the logits with PyTorch.

The batch size is dynamic; everything else is fixed. Stack traces of the source code are removed, and no file contains
a path of this machine.
"""
# B batch, H and W height and width in pixels

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

ATOL, RTOL = 1e-4, 1e-5  # tolerance of the logits: ATOL, or RTOL of the largest logit if that is above 10
Forward = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> logits [B, classes]


def require_packages(*packages: str) -> None:
    """Check that packages of the extra ``export`` are installed.

    Raises:
        UserError: At least one is not installed.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)}: not installed; pip install -e '.[export]'")


def trace(model: VisionTransformer) -> ExportedProgram:
    """Trace the network as a graph with a dynamic batch size."""
    size = model.spec.image_size
    program = torch.export.export(model, (torch.zeros(2, 3, size, size),), dynamic_shapes=_dynamic_shapes())
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program


def _dynamic_shapes() -> Any:
    return ({0: Dim("batch", min=1)},)


def write_program(program: ExportedProgram, path: Path) -> Forward:
    """Write a file for ``torch.export.load``, and return its forward function."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


def write_onnx(program: ExportedProgram, path: Path, opset: int) -> Forward:
    """Write a single ONNX file, images [batch, 3, H, W] -> logits [batch, classes]; return its forward function.

    Raises:
        UserError: onnx, onnxscript or onnxruntime is not installed.
    """
    require_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    with warnings.catch_warnings(action="ignore"):
        exported = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], opset_version=opset,
            dynamic_shapes=_dynamic_shapes(), verbose=False,
        )  # fmt: skip
    assert exported is not None, "dynamo returns a program"
    proto = exported.model_proto
    graph = proto.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]  # contains stack traces
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)
    return open_onnx(path)


def quantize(source: Path, path: Path) -> Forward:
    """Write a copy of an ONNX file with int8 linear layers, one scale per channel; return its forward function.

    Activations are quantized at run time (dynamic quantization). The products of two activations in attention stay
    float32. Weights use 7 of 8 bits: on CPUs without VNNI, sums of two 8-bit products overflow without a warning.

    Raises:
        UserError: onnx or onnxruntime is not installed.
    """
    require_packages("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    proto = onnx.load(source)
    del proto.graph.value_info[:]  # the quantizer transposes weights, and fails if their old shapes are recorded
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # suppress the advice to optimize the graph first: torch has done that
    try:
        quantize_dynamic(
            proto, path, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8, per_channel=True,
            reduce_range=True,
        )  # fmt: skip
    finally:
        logging.disable(before)
    return open_onnx(path)


def open_onnx(path: Path) -> Forward:
    """Open an ONNX file in onnxruntime on the CPU.

    Returns:
        A function from images on any device to logits on the CPU. It computes in float32.

    Raises:
        UserError: onnxruntime is not installed, or the file was not written by this project.
    """
    require_packages("onnxruntime")
    import onnxruntime

    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage export with export.onnx=true (and export.int8=true)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise UserError(f"{path}: onnxruntime cannot load it: {' '.join(str(error).split())}") from None
    names = [[node.name for node in nodes] for nodes in (session.get_inputs(), session.get_outputs())]
    if names != [["images"], ["logits"]]:
        raise UserError(f"{path}: not an ONNX file of this project: inputs {names[0]}, outputs {names[1]}")

    def forward(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {"images": images.float().cpu().numpy()})
        return torch.from_numpy(logits)

    return forward


def logit_difference(model: VisionTransformer, forward: Forward) -> tuple[float, float]:
    """Compare the logits of ``forward`` and the model on noise, for batches of 1 and 3 images.

    Returns:
        The largest absolute difference, and the model's largest absolute logit.
    """
    size = model.spec.image_size
    batches = [torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n)) for n in (1, 3)]
    with torch.inference_mode():
        expected, found = (torch.cat([compute(images) for images in batches]) for compute in (model, forward))
    return (expected - found).abs().max().item(), expected.abs().max().item()


def check_logits(model: VisionTransformer, forward: Forward, name: str) -> float:
    """Return the largest difference in logits.

    Raises:
        RuntimeError: The difference is larger than rounding explains.
    """
    difference, largest = logit_difference(model, forward)
    limit = max(ATOL, RTOL * largest)
    if not difference <= limit:  # also true for nan
        raise RuntimeError(f"{name}: logits differ by {difference:.1e} from PyTorch's, more than {limit:.1e}")
    return difference
