"""Sections of the configuration about images: loading, augmentation, mixing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vitas_ds.config.section import FilePath, Section
from vitas_ds.errors import UserError

RANDOM_IMAGES = "random images (data.synthetic), the results mean nothing"


class Data(Section):
    """Images and how they are loaded. The search images are held out of `train`."""

    train: FilePath = Field(
        "", description="training images: a folder with one folder per class, or WebDataset tar shards"
    )
    val: FilePath = Field("", description="validation images, in the same format; only the stage evaluate reads them")
    search_per_class: int = Field(
        10, gt=0, le=1_000_000, description="training images per class held out for the search"
    )
    exclude: FilePath | None = Field(
        None, description="file with paths of images to leave out, one per line (see `scan`)"
    )
    on_bad_file: Literal["stop", "skip"] = Field("stop", description="what to do with an unreadable training image")
    resize: int = Field(
        256, gt=0, le=16384, description="evaluation: length of the shorter side after resizing, in pixels"
    )
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="mean of RGB in [0, 1], subtracted")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="standard deviation of RGB, a divisor")
    decoder: Literal["auto", "host"] = Field(
        "auto", description="JPEG decoder on GPUs. auto: nvJPEG, whose pixels depend on the kind of GPU; host: the CPU "
        "decoder, with identical pixels on all machines",
    )  # fmt: skip
    synthetic: bool = Field(
        False, description="use random images instead of files, to measure everything except loading; the results "
        "mean nothing",
    )  # fmt: skip
    threads: int = Field(0, ge=0, le=4096, description="decoding threads per rank; 0: the rank's share of the cores")
    cache: Literal["auto", "device", "memory", "file"] = Field(
        "auto", description="decoded search images: on the device of each rank, in its memory, or in one shared file; "
        "auto: on a GPU if they fit, else in memory",
    )  # fmt: skip
    eval_batch_size: int = Field(
        256, gt=0, le=1_000_000, description="images per rank in a forward pass of evaluation and scoring"
    )

    @model_validator(mode="after")
    def _check(self) -> Data:
        if min(self.std) <= 0:
            raise ValueError(f"std must be greater than 0 (given: {list(self.std)})")
        if max(*self.mean, *self.std) > 1:
            given = f"mean {list(self.mean)}, std {list(self.std)}"
            raise ValueError(f"mean and std are of RGB in [0, 1] (given: {given}); divide values of 0 to 255 by 255")
        if min(self.mean) < 0:
            raise ValueError(f"mean must be 0 or more (given: {list(self.mean)})")
        return self

    def check_resize(self, image_size: int) -> None:
        """Raise ``UserError`` if evaluation would have to enlarge the resized images to ``image_size``."""
        if self.resize < image_size:
            raise UserError(
                f"data.resize: {self.resize} is below the image size {image_size}; use {image_size} or more"
            )


class Augment(Section):
    """Augmentation of each training image. The defaults are the weak augmentation of the supernet."""

    scale: tuple[float, float] = Field((0.08, 1.0), description="RandomResizedCrop: range of the area fraction")
    ratio: tuple[float, float] = Field((0.75, 4 / 3), description="RandomResizedCrop: range of width / height")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color_jitter: float = Field(0.0, ge=0, le=10, description="strength of brightness, contrast and saturation jitter")
    rand_augment: str | None = Field(None, description="RandAugment policy as timm names it: rand-m9-mstd0.5-inc1")
    random_erasing: float = Field(0.25, ge=0, le=1, description="probability of replacing a box with pixel noise")
    aug_repeats: int = Field(
        1, ge=1, le=1000, description="repeated augmentation: views of each image per epoch (DeiT: 3)"
    )

    @model_validator(mode="after")
    def _check(self) -> Augment:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two increasing numbers above 0 (given: {[low, high]})")
        if self.scale[1] > 1:
            raise ValueError(f"scale must not exceed 1 (given: {list(self.scale)})")
        if self.rand_augment not in (None, "rand-m9-mstd0.5-inc1"):
            raise ValueError(f"rand_augment must be null or rand-m9-mstd0.5-inc1 (given: {self.rand_augment})")
        return self


class Mixing(Section):
    """Mixup, CutMix (torchvision v2) and label smoothing."""

    mixup: float = Field(0.0, ge=0, le=1000, description="alpha of Mixup (arXiv 1710.09412); 0: off")
    cutmix: float = Field(0.0, ge=0, le=1000, description="alpha of CutMix (arXiv 1905.04899); 0: off")
    switch_prob: float = Field(0.5, ge=0, le=1, description="probability of CutMix instead of Mixup if both are on")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
