"""The typed configuration of a run. recipe.py reads it from YAML; it is validated completely before anything starts.

Each section is a class, and the description of each field is its documentation. Batch size, learning rate, clipping and
precision are set here only: the DeepSpeed JSON must not repeat them. Importing this module does not import torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitas_ds.arch.space import SearchSpace
from vitas_ds.errors import UserError

RANDOM_IMAGES = "random images (data.synthetic), the results mean nothing"


class Section(BaseModel):
    """A section of the configuration. It is frozen, and rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation in (int, float):
                raise ValueError(f"{name} must be a number (given: {str(value).lower()})")
        return data


class Run(Section):
    """Name, folder, seed and device of the run. Its folder is `dir/name/`."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9._-]+$", description="name of the run and of its folder")
    dir: str = Field("runs", description="folder that contains all runs")
    seed: int = Field(0, ge=0, description="seed of weights, data order, augmentation, subnet sampling and search")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is a GPU, else cpu")
    timeout: float = Field(1800, gt=0, description="seconds without progress of a rank after which the job ends")


class Data(Section):
    """Images and how they are loaded. The search images are held out of `train`."""

    train: str = Field("", description="training images: a folder with one folder per class, or WebDataset tar shards")
    val: str = Field("", description="validation images, in the same format; only the stage evaluate reads them")
    search_per_class: int = Field(10, gt=0, description="training images per class held out for the search")
    exclude: str | None = Field(None, description="file with paths of images to leave out, one per line (see `scan`)")
    on_bad_file: Literal["stop", "skip"] = Field("stop", description="what to do with an unreadable training image")
    resize: int = Field(256, gt=0, description="evaluation: length of the shorter side after resizing, in pixels")
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
    threads: int = Field(0, ge=0, description="decoding threads per rank; 0: the rank's share of the cores")
    cache: Literal["auto", "device", "memory", "file"] = Field(
        "auto", description="decoded search images: on the device of each rank, in its memory, or in one shared file; "
        "auto: on a GPU if they fit, else in memory",
    )  # fmt: skip
    eval_batch_size: int = Field(256, gt=0, description="images per rank in a forward pass of evaluation and scoring")

    @model_validator(mode="after")
    def _check(self) -> Data:
        if min(self.std) <= 0:
            raise ValueError(f"std must be greater than 0 (given: {list(self.std)})")
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
    color_jitter: float = Field(0.0, ge=0, description="strength of brightness, contrast and saturation jitter")
    rand_augment: str | None = Field(None, description="RandAugment policy as timm names it: rand-m9-mstd0.5-inc1")
    random_erasing: float = Field(0.25, ge=0, le=1, description="probability of replacing a box with pixel noise")
    aug_repeats: int = Field(1, ge=1, description="repeated augmentation: views of each image per epoch (DeiT: 3)")

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

    mixup: float = Field(0.0, ge=0, description="alpha of Mixup (arXiv 1710.09412); 0: off")
    cutmix: float = Field(0.0, ge=0, description="alpha of CutMix (arXiv 1905.04899); 0: off")
    switch_prob: float = Field(0.5, ge=0, le=1, description="probability of CutMix instead of Mixup if both are on")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")


class Teacher(Section):
    """Distillation: learn the outputs of a trained network in addition to the labels. Off without `model`."""

    model: str | None = Field(
        None, description="folder of an exported model, or of a run that has retrained one; same classes and image size"
    )
    kind: Literal["soft", "hard"] = Field(
        "soft", description="soft: learn the probabilities (arXiv 1503.02531); hard: learn the most likely class "
        "(arXiv 2012.12877, without its token)",
    )  # fmt: skip
    weight: float = Field(0.5, gt=0, le=1, description="weight of this loss; that of the labels has 1 - weight")
    temperature: float = Field(
        1.0, gt=0, description="soft: divide the logits of both networks by this before the softmax"
    )


class Training(Section):
    """Settings of both training stages."""

    epochs: int = Field(300, gt=0, description="epochs")
    batch_size: int = Field(1024, gt=0, description="images per optimizer step, over all ranks")
    grad_accum_steps: int = Field(1, gt=0, description="micro-batches per optimizer step")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine schedule")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warmup from 0")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of AdamW; not applied to 1D parameters")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of AdamW")
    clip_grad: float = Field(0.0, ge=0, description="clip the gradient norm to this value; 0: off")
    init_std: float | None = Field(
        0.02, gt=0, description="standard deviation of initial weight matrices; null: fan_in ** -0.5, which small "
        "networks need to learn",
    )  # fmt: skip
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay of the EMA of the weights, stored in the checkpoint; 0: off"
    )
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    teacher: Teacher = Teacher()
    save_every: int = Field(1000, gt=0, description="steps between checkpoints; the end of a training is always saved")
    save_minutes: float = Field(30, gt=0, description="save after this many minutes too, whichever comes first")
    keep: int = Field(2, gt=0, description="number of newest checkpoints to keep")
    keep_every: int = Field(0, ge=0, description="also keep every n-th step (a multiple of save_every); 0: off")
    keep_best: bool = Field(
        True, description="also keep the checkpoint with the lowest loss (running mean over about save_every steps)"
    )
    resume_from: str | None = Field(
        None, description="checkpoint that a new run resumes from, with optimizer state and step"
    )
    init_weights: str | None = Field(
        None, description="initial weights of a new run, of the same training: a checkpoint or a .safetensors file"
    )
    log_every: int = Field(20, gt=0, description="steps between progress lines")
    max_nonfinite: int = Field(3, gt=0, description="consecutive non-finite gradients after which training stops")

    @model_validator(mode="after")
    def _check(self) -> Training:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of grad_accum_steps {self.grad_accum_steps}"
            )
        if self.keep_every % self.save_every:
            raise ValueError(f"keep_every {self.keep_every} is not a multiple of save_every {self.save_every}")
        if self.resume_from and self.init_weights:
            raise ValueError("resume_from includes the weights; set init_weights or resume_from, not both")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers, at least 0 and below 1 (given: {list(self.betas)})")
        return self


class Checkpoint(Section):
    """How both training stages write checkpoints. `save_every` and `keep` of each stage say which."""

    asynchronous: bool = Field(
        True, description="write in the background while training goes on, from a copy in host memory"
    )


class Supernet(Training):
    """Training of the weight-sharing supernet (stage train-supernet)."""

    sharing: Literal["ordinal", "bilateral", "cyclic"] = Field(
        "bilateral", description="how widths share channels: ordinal (AutoSlim), bilateral (BCNet), or cyclic (ours)"
    )
    objective: Literal["logit_sum", "loss_mean"] = Field(
        "logit_sum", description="bilateral: loss of the summed logits of both sides (first release), or mean loss"
    )
    private_attention: Literal[0, 1, 2] = Field(
        2, description="parameters private to each num_heads: 0 none, 1 v, 2 q and k (as in ViTAS)"
    )
    private_norms: bool = Field(False, description="norms private to each pair of patch size and embed_dim")
    distribution: Literal["uniform", "budget"] = Field(
        "uniform", description="random subnets: uniform over all choices, or spread evenly over the networks within "
        "search.macs and the other budgets",
    )  # fmt: skip
    complementary: bool = Field(False, description="every second step trains the complement of the previous subnet")
    sampling: Literal["single", "sandwich"] = Field(
        "single", description="one random subnet per step, or the smallest, the largest and `random_subnets` "
        "(arXiv 1903.05134)",
    )  # fmt: skip
    random_subnets: int = Field(2, ge=0, description="sandwich: random subnets in addition to smallest and largest")
    distill: bool = Field(
        False, description="sandwich: train smaller subnets on the outputs of the largest (arXiv 1903.05134)"
    )
    macs: tuple[float, float] | None = Field(
        None, description="range of the mean MACs of sampled subnets, reached by fitting the probability of identity "
        "positions; null: search.macs",
    )  # fmt: skip
    throughput: tuple[float, float] | None = Field(
        None, description="like macs, but in images per second, measured as search.latency_* specify; excludes macs"
    )
    eval_every: float | None = Field(
        None, ge=0, description="epochs between two measurements of the accuracy of six subnets on the search images; "
        "0: off; null: as often as 3 % of the computation allow, possibly on fewer images",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check_supernet(self) -> Supernet:
        if self.macs is not None and not 0 <= self.macs[0] < self.macs[1]:
            raise ValueError(f"macs must be two increasing numbers, 0 or above (given: {list(self.macs)})")
        if self.throughput is not None and not 0 < self.throughput[0] < self.throughput[1]:
            raise ValueError(f"throughput must be two increasing numbers above 0 (given: {list(self.throughput)})")
        if self.throughput is not None and self.macs is not None:
            raise ValueError("macs and throughput both fit the identity probability; set one of them")
        return self


class Finalists(Section):
    """Short trainings at the end of a search: they rank its best candidates by their own accuracy."""

    count: int = Field(0, ge=0, le=100_000, description="best candidates to train; 0: off")
    steps: int = Field(
        0, ge=0, description="optimizer steps of the longest training; the schedule of `retrain` is compressed to it"
    )
    keep: float = Field(
        0.5, ge=0.01, le=0.99, description="fraction of the candidates that trains on after each rung (successive "
        "halving); each rung is 1 / keep times as long as the one before",
    )  # fmt: skip
    init: Literal["scratch", "supernet"] = Field(
        "scratch", description="initial weights: random, or those that the candidate has in the supernet"
    )

    @model_validator(mode="after")
    def _check(self) -> Finalists:
        if bool(self.count) != bool(self.steps):
            name, other = ("steps", "count") if self.count else ("count", "steps")
            raise ValueError(f"{other} is set, but {name} is 0; set both, or none")
        if self.count == 1:
            raise ValueError("count must be 0, or 2 or more: one candidate has no rival")
        return self


class Check(Section):
    """Short trainings at the start of a search: they show how well the supernet ranks subnets."""

    nets: int = Field(0, ge=0, le=10_000, description="random networks within the budget to train alone; 0: off")
    steps: int = Field(
        0, ge=0, description="optimizer steps of each training; the schedule of `retrain` is compressed to it"
    )

    @model_validator(mode="after")
    def _check(self) -> Check:
        if bool(self.nets) != bool(self.steps):
            name, other = ("steps", "nets") if self.nets else ("nets", "steps")
            raise ValueError(f"{other} is set, but {name} is 0; set both, or none")
        if 0 < self.nets < 4:
            raise ValueError("nets must be 0, or 4 or more: the ranking of fewer networks means nothing")
        return self


class Search(Section):
    """Evolutionary search with the weights of the supernet (stage search)."""

    algorithm: Literal["ga", "nsga2", "random"] = Field("ga", description="GA or NSGA-II of pymoo, or random search")
    population: int = Field(50, gt=1, description="candidates per generation")
    generations: int = Field(40, gt=0, description="number of generations, including the initial population")
    macs: tuple[float, float] | None = Field(None, description="budget: smallest and largest MACs of a candidate")
    vitas_flops: tuple[float, float] | None = Field(None, description="budget in FLOPs as the first release counts")
    params: tuple[float, float] | None = Field(None, description="budget in parameters")
    activations: tuple[float, float] | None = Field(
        None, description="budget in bytes of activations that training keeps per image"
    )
    latency: tuple[float, float] | None = Field(
        None, description="budget in seconds per batch, predicted from measured networks"
    )
    throughput: tuple[float, float] | None = Field(None, description="budget in images per second")
    latency_batch_size: int = Field(32, gt=0, description="batch size of latency measurements")
    latency_also: tuple[int, ...] = Field(
        (), description="further batch sizes, measured for the front and the best candidates"
    )
    latency_runtime: Literal["auto", "torch", "cuda-graph", "onnxruntime"] = Field(
        "auto", description="what runs the measured networks; auto: cuda-graph on CUDA, onnxruntime on the CPU if "
        "installed, else torch",
    )  # fmt: skip
    latency_precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of latency measurements; null: engine.precision, for onnxruntime fp32"
    )
    latency_table: str | None = Field(
        None, description="JSON lines of measured latencies, as the tool latency writes them; used instead of measuring"
    )
    latency_device: str | None = Field(None, description="device that search.latency_table must name; null: any one")
    latency_nets: int = Field(
        48,
        ge=12,
        description="networks measured for the latency predictor: 3/4 to fit it, 1/4 to test it",
    )
    objectives: tuple[Literal["macs", "vitas_flops", "params", "activations", "latency"], ...] = Field(
        (), description="nsga2: costs to minimize in addition to maximizing the score"
    )
    crossover_prob: float = Field(0.9, ge=0, le=1, description="probability of two-point crossover")
    random_fraction: float = Field(
        0.25, ge=0, lt=1, description="fraction of each generation sampled uniformly from the space within the budget. "
        "With 0 (as in the first release), a search may converge to a single embed_dim",
    )  # fmt: skip
    mutation_eta: float = Field(3.0, gt=0, description="eta of polynomial mutation (3 in the first release)")
    top_k: int = Field(5, gt=0, description="best candidates to score again on all search images at the end")
    side_rule: Literal["accuracy_mean", "logit_sum"] = Field(
        "accuracy_mean", description="bilateral: mean accuracy of both sides, or accuracy of the summed logits"
    )
    images: int = Field(0, ge=0, description="search images per candidate; 0: all")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of scoring; null: bf16 on GPUs that have it, else engine.precision"
    )
    cuda_graphs: Literal["auto"] | bool = Field(
        "auto", description="CUDA: replay the batches of a candidate as a CUDA graph; auto: if it has enough of them"
    )
    ranks_per_candidate: int = Field(
        1, ge=0, description="ranks that share the images of a candidate; 1: each rank scores its own, 0: all share one"
    )
    racing: float = Field(
        0.0, ge=0, lt=1, description="confidence at which unpromising candidates are dropped early, e.g. 0.95; 0: off"
    )
    baselines: bool = Field(False, description="also score random search and uniform networks within the budget")
    surrogate: float = Field(
        0.0, ge=0, lt=1, description="a regressor fitted to the scores proposes half of each generation while its rank "
        "correlation on held-out candidates is at least this value; random candidates fill at most the other half. "
        "0: off",
    )  # fmt: skip
    reuse: str | None = Field(None, description="ledger.jsonl of another search whose scores are reused")
    checkpoint: str | None = Field(None, description="supernet weights or checkpoint; null: the run's own")
    check: Check = Check()
    finalists: Finalists = Finalists()

    @model_validator(mode="after")
    def _check(self) -> Search:
        for name, pair in self.budget.items():
            if not 0 <= pair[0] < pair[1]:
                raise ValueError(f"{name} must be two increasing numbers, 0 or above (given: {list(pair)})")
        if self.seconds is not None and self.seconds[0] >= self.seconds[1]:
            raise ValueError("latency and throughput contradict each other: no network satisfies both")
        sizes = [self.latency_batch_size, *self.latency_also]
        if min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"latency_batch_size and latency_also must be different sizes above 0 (given: {sizes})")
        return self

    @property
    def budget(self) -> dict[str, tuple[float, float]]:
        """The bounds set by the user, by field name."""
        names = ("macs", "vitas_flops", "params", "activations", "latency", "throughput")
        return {name: pair for name in names if (pair := getattr(self, name)) is not None}

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Range of seconds per batch within both ``latency`` and ``throughput``; None if neither is set."""
        slow, fast = self.throughput or (0.0, 0.0)
        ranges = [self.latency] if self.latency else []
        if self.throughput:
            ranges.append((self.latency_batch_size / fast, self.latency_batch_size / slow if slow else math.inf))
        return (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None

    @property
    def timed(self) -> bool:
        """Whether the search needs a latency predictor."""
        return self.seconds is not None or (self.algorithm == "nsga2" and "latency" in self.objectives)


class Retrain(Training):
    """Training of one network (stage retrain)."""

    spec: str = Field(
        "search:best",
        description="network to train: search:best, search:best[N], search:pareto[N], search:macs<1.3G, a published "
        "name, or a spec.json",
    )
    init: str = Field(
        "scratch",
        description="initial weights: scratch (random), supernet (those that the network has in the supernet), or the "
        "folder of an exported model or of a run whose network equals the one to train",
    )
    drop_path_rate: float = Field(
        0.1, ge=0, lt=1, description="stochastic depth rate of the last layer, increasing linearly (arXiv 1603.09382)"
    )

    @model_validator(mode="after")
    def _check_init(self) -> Retrain:
        for name in ("init_weights", "resume_from"):
            if self.init != "scratch" and getattr(self, name):
                raise ValueError(f"{name} and init both give the initial weights; set one of them")
        return self


class Profile(Section):
    """Steps to profile: rank 0 writes `trace.json.gz`, for Perfetto, into the folder of the stage."""

    start: int = Field(10, gt=0, description="first step, from 1; the first steps are slower than the others")
    steps: int = Field(0, ge=0, description="number of steps; 0: off")


class Engine(Section):
    """DeepSpeed, precision and speed."""

    zero: str = Field("zero1", description="ZeRO stage and offload: name of a file in ds_configs/, or a path")
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


class Evaluate(Section):
    """Evaluation on the validation images (stage evaluate)."""

    model: str = Field("retrain", description="retrain: the run's own network, or folder of an exported model")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of the evaluation; null: bf16 on GPUs that have it, else fp32"
    )


class Export(Section):
    """Model and optional outputs of the stage export."""

    model: str = Field("retrain", description="retrain: the run's own network, or folder of an exported model")
    license: str = Field("apache-2.0", pattern=r"^[A-Za-z0-9.-]+$", description="license in the model card")
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
    """Tracking with W&B, in addition to the console and metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: WANDB_MODE if set, else online with WANDB_API_KEY, else offline"
    )
    project: str | None = Field(None, description="W&B project; null: WANDB_PROJECT, else vitas_ds")
    entity: str | None = Field(None, description="W&B user or team; null: WANDB_ENTITY, else your default")


class Config(BaseModel):
    """Configuration of a run, one section per topic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Run = Run()
    space: SearchSpace = SearchSpace()
    data: Data = Data()
    engine: Engine = Engine()
    checkpoint: Checkpoint = Checkpoint()
    supernet: Supernet = Supernet()
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    tracking: Tracking = Tracking()


def dump(config: Config) -> str:
    """Return the resolved configuration as YAML. ``recipe.load`` reads it back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def format_value(value: Any) -> str:
    """Format a value as in a recipe, with short numbers."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item) for item in value)}]"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value) or '""'
