"""Sections of the configuration about DeepSpeed, precision and speed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vitas_ds.config.section import COUNT, FilePath, Section


class Profile(Section):
    """Steps to profile: rank 0 writes `trace.json.gz`, for Perfetto, into the folder of the stage."""

    start: int = Field(10, gt=0, le=COUNT, description="first step, from 1; the first steps are slower than the others")
    steps: int = Field(0, ge=0, le=1_000_000, description="number of steps; 0: off")


class Engine(Section):
    """DeepSpeed, precision and speed."""

    zero: FilePath = Field("zero1", description="ZeRO stage and offload: name of a file in ds_configs/, or a path")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16", description="precision of training and scoring; weights are stored and evaluated in fp32"
    )
    grad_checkpointing: bool = Field(False, description="recompute the activations of each block in the backward pass")
    compile: Literal["auto"] | bool = Field(
        "auto", description="torch.compile of the network in retrain and evaluate, and of the supernet's block; auto: "
        "only of the network, on GPUs",
    )  # fmt: skip
    tf32: bool = Field(True, description="CUDA: TF32 in fp32 matrix products")
    kernels: Literal["auto", "triton", "torch"] = Field(
        "auto", description="CUDA: kernels that pack slices, add gradients and normalize; auto: triton if installed"
    )
    profile: Profile = Profile()
    deterministic: bool = Field(
        False, description="CUDA: deterministic kernels, which make a resumed run bitwise equal"
    )
