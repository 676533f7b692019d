"""Choose how latencies are measured, and check that this is possible. Importing this module does not import torch."""

from __future__ import annotations

from importlib.util import find_spec

from vitas_ds.config import Search
from vitas_ds.errors import UserError

MIN_NETWORKS = 12  # to fit and test a predictor
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def choose_runtime(search: Search, engine_precision: str, device: str) -> tuple[str, str]:
    """Return the name of the runtime and the precision of the measurements.

    Args:
        search: The section of the recipe.
        engine_precision: ``engine.precision``, the default.
        device: "cpu" or "cuda".

    Raises:
        UserError: The runtime is not installed, or does not support the device or the precision.
    """
    name, precision = search.latency_runtime, search.latency_precision
    missing = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if name == "auto" and device == "cuda":
        name = "cuda-graph"
    elif name == "auto":
        name = "torch" if missing or precision not in (None, "fp32") else "onnxruntime"
    if name == "onnxruntime":
        _check_onnxruntime(missing, precision)
        return name, "fp32"
    if device != "cuda":
        _check_on_cpu(name, precision or engine_precision)
    return name, precision or engine_precision


def _check_onnxruntime(missing: list[str], precision: str | None) -> None:
    if missing:
        raise UserError(
            f"search.latency_runtime: onnxruntime needs {', '.join(missing)}, not installed; pip install -e "
            "'.[export]', or use search.latency_runtime=torch"
        )
    if precision not in (None, "fp32"):
        raise UserError(
            f"search.latency_precision: onnxruntime computes in fp32 on the CPU, not {precision}; remove "
            "search.latency_precision, or use search.latency_runtime=torch"
        )


def _check_on_cpu(name: str, precision: str) -> None:
    if name == "cuda-graph":
        raise UserError(
            "search.latency_runtime: cuda-graph needs a GPU; use onnxruntime, torch or auto, or search.latency_table "
            "with latencies that another machine measured"
        )
    if precision == "fp16":
        raise UserError("search.latency_precision: fp16 needs a GPU; use fp32 or bf16 on the CPU")
