"""Sections of the configuration about evaluation, export and tracking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vitas_ds.config.section import FilePath, Section


class Evaluate(Section):
    """Evaluation on the validation images (stage evaluate)."""

    model: FilePath = Field(
        "retrain", description="retrain: the run's own network; or an exported folder, or hf://USER/NAME"
    )
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of the evaluation; null: bf16 on GPUs that have it, else fp32"
    )


class Export(Section):
    """Model and optional outputs of the stage export."""

    model: FilePath = Field(
        "retrain", description="retrain: the run's own network; or an exported folder, or hf://USER/NAME"
    )
    license: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.-]+$", description="license in the model card; null: that of the initial weights "
        "or of the exported folder; apache-2.0 for networks trained from random weights",
    )  # fmt: skip
    timm: bool = Field(True, description="timm/: the network for timm, which requires equal layers")
    program: bool = Field(False, description="model.pt2: a torch.export program for any batch size")
    onnx: bool = Field(False, description="model.onnx: float32, any batch size; needs pip install -e '.[export]'")
    opset: int = Field(20, ge=18, le=23, description="ONNX opset of model.onnx")
    int8: bool = Field(False, description="model_int8.onnx: int8 weights; its accuracy is measured if data.val is set")

    @model_validator(mode="after")
    def _check(self) -> Export:
        if self.int8 and not self.onnx:
            raise ValueError("int8 is converted from the ONNX file; set export.onnx=true")
        return self


class Tracking(Section):
    """Tracking with W&B and TensorBoard, in addition to the console and metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: WANDB_DISABLED or WANDB_MODE if set, else online with WANDB_API_KEY, else offline"
    )
    project: str | None = Field(None, description="W&B project; null: WANDB_PROJECT, else vitas_ds")
    entity: str | None = Field(None, description="W&B user or team; null: WANDB_ENTITY, else your default")
    tags: tuple[str, ...] | None = Field(None, description="tags of the W&B run; null: WANDB_TAGS")
    notes: str | None = Field(None, description="notes of the W&B run; null: WANDB_NOTES")
    tensorboard: bool = Field(False, description="also write tensorboard/; needs pip install -e '.[tensorboard]'")

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if any(not 1 <= len(tag) <= 64 for tag in tags or ()):
            raise ValueError("a tag of W&B has 1 to 64 characters")
        return tags
