"""The run's typed configuration: what a recipe may say (recipe.py reads it), validated whole before anything starts.

Each section is a class; each field's description is its documentation. Every number has one owner: batch size,
learning rate, clipping and precision live here and are put into the DeepSpeed JSON, which must not repeat them.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vitas_ds.arch.space import SearchSpace


class Section(BaseModel):
    """A part of the configuration: frozen, and an unknown key is an error."""

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
    """Which run this is, and where it lives: ``dir/name/``."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9._-]+$", description="name of the run and of its folder")
    dir: str = Field("runs", description="folder of all runs")
    seed: int = Field(0, ge=0, description="seed of weights, data order, augmentation, sampled nets and search")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda if there is a GPU")
    timeout: float = Field(1800, gt=0, description="seconds a rank waits for another before the job ends")


class Data(Section):
    """The images. ``train`` and ``val`` are ImageFolder trees; search images are held out of train."""

    train: str = Field("", description="folder of the training images: one folder a class, or tar shards (WebDataset)")
    val: str = Field("", description="folder of the validation images; read by evaluate alone")
    search_per_class: int = Field(10, gt=0, description="training images of each class held out for the search")
    exclude: str | None = Field(None, description="file that lists images to leave out, one path a line (see scan)")
    on_bad_file: Literal["stop", "skip"] = Field("stop", description="an unreadable image met in training")
    resize: int = Field(256, gt=0, description="evaluation: shorter side after resizing, in pixels")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="subtracted from RGB in [0, 1]")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="RGB is divided by this")
    threads: int = Field(0, ge=0, description="decoding threads of a rank; 0: the rank's share of the cores")
    cache: Literal["memory", "device", "file"] = Field(
        "memory", description="decoded search images: in each rank's memory, on its device, or in a file ranks share"
    )
    eval_batch_size: int = Field(256, gt=0, description="images a rank scores at once")

    @model_validator(mode="after")
    def _check(self) -> Data:
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0 (given: {list(self.std)})")
        return self


class Augment(Section):
    """Augmentation of single training images. The defaults are the weak recipe of the supernet."""

    scale: tuple[float, float] = Field((0.08, 1.0), description="RandomResizedCrop: share of the area")
    ratio: tuple[float, float] = Field((0.75, 4 / 3), description="RandomResizedCrop: width / height")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    color_jitter: float = Field(0.0, ge=0, description="strength of brightness, contrast and saturation jitter")
    rand_augment: str | None = Field(None, description="timm's name of a RandAugment policy: rand-m9-mstd0.5-inc1")
    random_erasing: float = Field(0.25, ge=0, le=1, description="probability of erasing a box with pixel noise")
    aug_repeats: int = Field(1, ge=1, description="repeated augmentation: views of an image in an epoch (DeiT: 3)")

    @model_validator(mode="after")
    def _check(self) -> Augment:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two rising numbers above 0 (given: {[low, high]})")
        if self.scale[1] > 1:
            raise ValueError(f"scale must end at 1 or below (given: {list(self.scale)})")
        if self.rand_augment not in (None, "rand-m9-mstd0.5-inc1"):
            raise ValueError(f"rand_augment must be null or rand-m9-mstd0.5-inc1 (given: {self.rand_augment})")
        return self


class Mixing(Section):
    """Mixing of a batch (torchvision v2) and label smoothing."""

    mixup: float = Field(0.0, ge=0, description="Mixup's alpha (arXiv 1710.09412); 0: off")
    cutmix: float = Field(0.0, ge=0, description="CutMix's alpha (arXiv 1905.04899); 0: off")
    switch_prob: float = Field(0.5, ge=0, le=1, description="probability of CutMix where both are on")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")


class Training(Section):
    """What both training stages have."""

    epochs: int = Field(300, gt=0, description="epochs over the training images")
    batch_size: int = Field(1024, gt=0, description="images of an optimizer step, over all ranks")
    grad_accum_steps: int = Field(1, gt=0, description="parts that a rank's share of a batch is computed in")
    lr: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    min_lr: float = Field(0.0, ge=0, description="learning rate at the end of the cosine")
    warmup_epochs: float = Field(5, ge=0, description="epochs of linear warm-up from 0")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's decay; parameters of one dimension have none")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's betas")
    clip_grad: float = Field(0.0, ge=0, description="largest gradient norm; 0: no clipping")
    init_std: float | None = Field(
        0.02, gt=0, description="deviation of the initial matrices; null: fan_in ** -0.5, which narrow nets learn from"
    )
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights (0: none), kept in the checkpoint")
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    save_every: int = Field(1000, gt=0, description="steps between checkpoints (also one at each end)")
    save_minutes: float = Field(30, gt=0, description="minutes between checkpoints, whichever comes first")
    keep: int = Field(2, gt=0, description="newest checkpoints kept")
    keep_every: int = Field(0, ge=0, description="those of every n-th step stay for good (n a multiple of save_every)")
    keep_best: bool = Field(True, description="the one of the lowest loss (mean of about save_every steps) stays too")
    resume_from: str | None = Field(
        None, description="checkpoint that a new run goes on from, optimizer and step as well"
    )
    init_weights: str | None = Field(
        None, description="weights that a new run starts with: a checkpoint, a .safetensors file, an exported model"
    )
    log_every: int = Field(20, gt=0, description="steps between progress lines")
    max_nonfinite: int = Field(3, gt=0, description="non-finite losses in a row that end the job")

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
            raise ValueError("resume_from has weights already; give init_weights or resume_from, not both")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers from 0 to below 1 (given: {list(self.betas)})")
        return self


class Supernet(Training):
    """Training of the weight-sharing supernet (stage train-supernet)."""

    sharing: Literal["ordinal", "bilateral", "cyclic"] = Field(
        "bilateral", description="which channels a width uses: AutoSlim, BCNet, cyclic (our layout)"
    )
    objective: Literal["logit_sum", "loss_mean"] = Field(
        "logit_sum", description="bilateral: one loss of the summed logits (first release), or mean of both losses"
    )
    private_attention: Literal[0, 1, 2] = Field(
        2, description="private per head count: 0 nothing, 1 v, 2 q and k (the one ViTAS uses)"
    )
    complementary: bool = Field(False, description="every second step trains the complement of the step before")
    sampling: Literal["single", "sandwich"] = Field(
        "single", description="one random net a step, or smallest, largest and `random_subnets` (arXiv 1903.05134)"
    )
    random_subnets: int = Field(2, ge=0, description="sandwich: random nets beside the smallest and the largest")
    distill: bool = Field(False, description="sandwich: smaller nets learn the largest one's outputs (1903.05134)")
    macs: tuple[float, float] | None = Field(
        None, description="MACs that sampled nets should average to; fits the identity probability; null: search.macs"
    )
    throughput: tuple[float, float] | None = Field(
        None, description="the same in images a second, measured as search.latency_* say; instead of macs"
    )

    @model_validator(mode="after")
    def _check_supernet(self) -> Supernet:
        if self.macs is not None and not 0 <= self.macs[0] < self.macs[1]:
            raise ValueError(f"macs must be a smaller and a larger number (given: {list(self.macs)})")
        if self.throughput is not None and not 0 < self.throughput[0] < self.throughput[1]:
            raise ValueError(f"throughput must be two rising numbers above 0 (given: {list(self.throughput)})")
        if self.throughput is not None and self.macs is not None:
            raise ValueError("macs and throughput fit the same identity probability: give one of them")
        return self


class Search(Section):
    """Evolutionary search with inherited weights."""

    algorithm: Literal["ga", "nsga2", "random"] = Field("ga", description="pymoo's GA, NSGA-II, or random search")
    population: int = Field(50, gt=1, description="nets of a generation")
    generations: int = Field(40, gt=0, description="generations, the initial population included")
    macs: tuple[float, float] | None = Field(None, description="smallest and largest exact MACs of a candidate")
    vitas_flops: tuple[float, float] | None = Field(None, description="the same in the first release's FLOPs")
    params: tuple[float, float] | None = Field(None, description="the same in parameters")
    activations: tuple[float, float] | None = Field(None, description="the same in bytes that training an image keeps")
    latency: tuple[float, float] | None = Field(
        None, description="shortest and longest seconds of a batch on this device, predicted from measured nets"
    )
    throughput: tuple[float, float] | None = Field(None, description="the same in images a second")
    latency_batch_size: int = Field(32, gt=0, description="images of the batch whose latency is measured")
    latency_precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="arithmetic of the measured nets; null: engine.precision"
    )
    latency_nets: int = Field(48, ge=12, description="nets measured for the prediction; a quarter of them test it")
    objectives: tuple[Literal["macs", "vitas_flops", "params", "activations", "latency"], ...] = Field(
        (), description="nsga2: costs to lower as well"
    )
    crossover_prob: float = Field(0.9, ge=0, le=1, description="two-point crossover")
    random_fraction: float = Field(
        0.25, ge=0, lt=1, description="share of each generation drawn anew, evenly over space and budget: without it "
        "(0: the first release), a search may settle on one embedding width",
    )  # fmt: skip
    mutation_eta: float = Field(3.0, gt=0, description="polynomial mutation's eta (3: the first release)")
    top_k: int = Field(5, gt=0, description="nets scored again on all search images at the end")
    side_rule: Literal["accuracy_mean", "logit_sum"] = Field(
        "accuracy_mean", description="bilateral: mean accuracy of both sides, or accuracy of the summed logits"
    )
    images: int = Field(0, ge=0, description="search images that a candidate is scored on; 0: all")
    ranks_per_candidate: int = Field(
        1, ge=0, description="ranks that share a candidate's images; 1: each rank its own candidate, 0: all ranks one"
    )
    racing: float = Field(
        0.0, ge=0, lt=1, description="confidence at which hopeless candidates are dropped early, e.g. 0.95; 0: off"
    )
    baselines: bool = Field(False, description="score random search and uniform nets inside the budget too")
    surrogate: float = Field(
        0.0, ge=0, lt=1, description="a regressor on the scores proposes half of each generation while its rank "
        "correlation on held-out nets is at least this, and search.random_fraction at most the other half; 0: off",
    )  # fmt: skip
    reuse: str | None = Field(None, description="ledger.jsonl of another search whose scores are taken over")
    checkpoint: str | None = Field(None, description="supernet to score with; null: the run's own")

    @model_validator(mode="after")
    def _check(self) -> Search:
        for name, pair in self.budget.items():
            if not 0 <= pair[0] < pair[1]:
                given = f"(given: {list(pair)})"
                raise ValueError(f"{name} must be two numbers that rise, the smaller one 0 or above {given}")
        if self.seconds is not None and self.seconds[0] >= self.seconds[1]:
            raise ValueError("latency and throughput exclude each other: no net has both")
        return self

    @property
    def budget(self) -> dict[str, tuple[float, float]]:
        """The bounds that are set, by the name of their key."""
        names = ("macs", "vitas_flops", "params", "activations", "latency", "throughput")
        return {name: pair for name in names if (pair := getattr(self, name)) is not None}

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Shortest and longest latency of a batch that ``latency`` and ``throughput`` allow; None: any."""
        slow, fast = self.throughput or (0.0, 0.0)
        ranges = [self.latency] if self.latency else []
        if self.throughput:
            ranges.append((self.latency_batch_size / fast, self.latency_batch_size / slow if slow else math.inf))
        return (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else None

    @property
    def timed(self) -> bool:
        """Whether candidates are judged by their latency too, which has to be measured first."""
        return self.seconds is not None or (self.algorithm == "nsga2" and "latency" in self.objectives)


class Retrain(Training):
    """Training of one spec from scratch, as a plain vision transformer."""

    spec: str = Field("search:best", description="search:best, search:pareto[N], a published net, or a spec.json")
    drop_path_rate: float = Field(0.1, ge=0, lt=1, description="stochastic depth of the last layer (1603.09382)")


class Engine(Section):
    """DeepSpeed, precision and speed."""

    zero: str = Field("zero1", description="a file of ds_configs/ without .json, or a path: ZeRO stage and offload")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "bf16", description="arithmetic of training and scoring; weights are kept, and evaluated, in fp32"
    )
    grad_checkpointing: bool = Field(False, description="recompute each block in the backward pass")
    compile: bool = Field(False, description="torch.compile of the fixed net in retrain and evaluate")
    tf32: bool = Field(True, description="CUDA: TF32 in fp32 matrix products")
    deterministic: bool = Field(
        False, description="CUDA: kernels that add in a fixed order, so that a resumed run has the same bits"
    )


class Evaluate(Section):
    """Evaluation on the validation images."""

    model: str = Field("retrain", description="retrain: the run's own net, or the folder of an exported model")


class Export(Section):
    """What the stage export writes beside the model itself."""

    model: str = Field("retrain", description="retrain: the run's own net, or the folder of an exported model")
    license: str = Field("apache-2.0", pattern=r"^[A-Za-z0-9.-]+$", description="license that the model card states")
    timm: bool = Field(True, description="timm/: the net for timm, where its layers are alike (timm needs that)")
    program: bool = Field(False, description="model.pt2: a program of torch.export, for any number of images")
    onnx: bool = Field(False, description="model.onnx: float32, for any number of images; pip install -e '.[export]'")
    opset: int = Field(20, ge=18, le=23, description="ONNX operator set of model.onnx")
    int8: bool = Field(False, description="model_int8.onnx: int8 weights; accuracy is measured where data.val is given")

    @model_validator(mode="after")
    def _check(self) -> Export:
        if self.int8 and not self.onnx:
            raise ValueError("int8 is made from the ONNX file: it needs export.onnx=true")
        return self


class Tracking(Section):
    """Where progress goes beside the console and metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = Field(
        "auto", description="auto: online where WANDB_API_KEY is set, else offline"
    )
    project: str | None = Field(None, description="W&B project; null: WANDB_PROJECT, else vitas_ds")
    entity: str | None = Field(None, description="W&B user or team; null: WANDB_ENTITY, else yours")


class Config(BaseModel):
    """A whole run. Sections have one noun each; see their classes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Run = Run()
    space: SearchSpace = SearchSpace()
    data: Data = Data()
    engine: Engine = Engine()
    supernet: Supernet = Supernet()
    search: Search = Search()
    retrain: Retrain = Retrain()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    tracking: Tracking = Tracking()


def dump(config: Config) -> str:
    """The resolved configuration as YAML that ``load`` reads back to the same object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def said(value: Any) -> str:
    """A value as it stands in a recipe, numbers short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(said(one) for one in value)}]"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value) or '""'
