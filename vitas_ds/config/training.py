"""Sections of the configuration about the training stages."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from vitas_ds.config.data import Augment, Mixing
from vitas_ds.config.limits import Range
from vitas_ds.config.section import COUNT, FilePath, Section


class Teacher(Section):
    """Distillation: learn the outputs of a trained network in addition to the labels. Off without `model`."""

    model: FilePath | None = Field(
        None, description="folder of an exported model, of a run that has retrained one, or timm:NAME; same classes "
        "and image size; or init: the network of supernet.init",
    )  # fmt: skip
    weights: FilePath | None = Field(
        None, description="timm:NAME: local file with its weights, .safetensors or of torch.save"
    )
    kind: Literal["soft", "hard"] = Field(
        "soft", description="soft: learn the probabilities (arXiv 1503.02531); hard: learn the most likely class "
        "(arXiv 2012.12877; its token is `distill_token`)",
    )  # fmt: skip
    weight: float = Field(0.5, gt=0, le=1, description="weight of this loss; that of the labels has 1 - weight")
    temperature: float = Field(
        1.0, gt=0, le=1000, description="soft: divide the logits of both networks by this before the softmax"
    )


class Training(Section):
    """Settings of both training stages."""

    epochs: int = Field(300, gt=0, le=1_000_000, description="epochs")
    batch_size: int = Field(1024, gt=0, le=COUNT, description="images per optimizer step, over all ranks")
    grad_accum_steps: int = Field(1, gt=0, le=1_000_000, description="micro-batches per optimizer step")
    lr: float = Field(1e-3, gt=0, le=1e18, description="peak learning rate of AdamW")
    min_lr: float = Field(0.0, ge=0, le=1e18, description="learning rate at the end of the cosine schedule")
    warmup_epochs: float = Field(5, ge=0, le=1_000_000, description="epochs of linear warmup from 0")
    weight_decay: float = Field(0.05, ge=0, le=1000, description="weight decay of AdamW; not applied to 1D parameters")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of AdamW")
    clip_grad: float = Field(0.0, ge=0, le=1e12, description="clip the gradient norm to this value; 0: off")
    init_std: float | None = Field(
        0.02, gt=0, le=1000,
        description="standard deviation of initial weight matrices; null: fan_in ** -0.5, which small "
        "networks need to learn",
    )  # fmt: skip
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="decay of the EMA of the weights, stored in the checkpoint; 0: off"
    )
    augment: Augment = Augment()
    mixing: Mixing = Mixing()
    teacher: Teacher = Teacher()
    save_every: int = Field(
        1000, gt=0, le=COUNT, description="steps between checkpoints; the end of a training is always saved"
    )
    save_minutes: float = Field(30, gt=0, le=1e8, description="save after this many minutes too, whichever comes first")
    keep: int = Field(2, gt=0, le=1_000_000, description="number of newest checkpoints to keep")
    keep_every: int = Field(
        0, ge=0, le=COUNT, description="also keep every n-th step (a multiple of save_every); 0: off"
    )
    keep_best: bool = Field(
        True, description="also keep the best checkpoint: that with the highest accuracy, or, if none was measured, "
        "with the lowest loss (running mean over about save_every steps)",
    )  # fmt: skip
    resume_from: FilePath | None = Field(
        None, description="checkpoint a new run resumes from, with optimizer state and step"
    )
    init_weights: FilePath | None = Field(
        None, description="initial weights of a new run, of the same training: a checkpoint or a .safetensors file"
    )
    log_every: int = Field(20, gt=0, le=COUNT, description="steps between progress lines")
    max_nonfinite: int = Field(
        3, gt=0, le=COUNT, description="consecutive non-finite gradients after which training stops"
    )

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
    format: Literal["vitas_ds", "deepspeed"] = Field(
        "vitas_ds", description="safetensors and JSON, or the files of DeepSpeed's save_checkpoint, for its tools; "
        "a run may change it",
    )  # fmt: skip


class Supernet(Training):
    """Training of the weight-sharing supernet (stage train-supernet)."""

    init: FilePath = Field(
        "scratch", description="initial weights: scratch (random), or those of a pretrained network, the largest "
        "subnet (space.elastic): an exported model, a run that has retrained one, or timm:NAME",
    )  # fmt: skip
    weights: FilePath | None = Field(
        None, description="init=timm:NAME: local file with its weights, .safetensors or of torch.save"
    )
    importance_images: int = Field(
        1024, ge=0, le=COUNT, description="init: training images on which the importance of units is measured, to sort "
        "them; 0: keep their order",
    )  # fmt: skip
    open: float = Field(
        0.0, ge=0, le=1, description="share of the training in which smaller choices open one after the other, those "
        "of embed_dim last; 0: all are open from the start. A third suits a pretrained network",
    )  # fmt: skip
    sharing: Literal["ordinal", "bilateral", "cyclic"] = Field(
        "bilateral", description="how widths share channels: ordinal (AutoSlim), bilateral (BCNet; with supernet.init, "
        "the most important ones are in the middle), or cyclic (ours)",
    )  # fmt: skip
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
    random_subnets: int = Field(
        2, ge=0, le=1000, description="sandwich: random subnets in addition to smallest and largest"
    )
    distill: bool = Field(
        False, description="sandwich: train smaller subnets on the outputs of the largest (arXiv 1903.05134)"
    )
    macs: Range | None = Field(
        None, description="range of the mean MACs of sampled subnets, reached by fitting the probability of identity "
        "positions; null: search.macs",
    )  # fmt: skip
    throughput: Range | None = Field(
        None, description="like macs, but in images per second, measured as search.latency_* specify; excludes macs"
    )
    eval_every: float | None = Field(
        None, ge=0, le=1_000_000,
        description="epochs between two measurements of the accuracy of six subnets on the search images; "
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


class Retrain(Training):
    """Training of one network (stage retrain)."""

    epochs: int = Field(300, ge=0, le=1_000_000, description="epochs; 0: keep the weights of `init` as they are")
    spec: FilePath = Field(
        "search:best",
        description="network to train: search:best, search:best[N], search:pareto[N], search:budget[N] or "
        "search:budgets (one or all of search.budgets), search:macs<1.3G, a published name, a spec.json, or init: that "
        "of `init`, which is the default if `init` is a model",
    )
    init: FilePath = Field(
        "scratch",
        description="initial weights: scratch (random), supernet (inherited), or those of an exported model (a folder "
        "or hf://USER/NAME), of a run or of a checkpoint; with other classes, the head is new; for another image size, "
        "position embeddings are resized",
    )
    drop_path_rate: float = Field(
        0.1, ge=0, lt=1, description="stochastic depth rate of the last layer, increasing linearly (arXiv 1603.09382)"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="the learning rate of each layer is this times that of the next one, up to the "
        "head; 1: equal; fine-tuning: 0.65 to 0.9 (arXiv 2106.08254)",
    )  # fmt: skip
    freeze: int | Literal["backbone"] = Field(
        0, description="weights that stay unchanged: those of the patch embedding and the first N layers, or backbone: "
        "all but the head; 0: none",
    )  # fmt: skip
    distill_token: bool = Field(
        False, description="add a distillation token with a classifier of its own, which learns from `teacher`, while "
        "that of the class token learns the labels (arXiv 2012.12877); the result averages both",
    )  # fmt: skip
    eval_every: float | None = Field(
        None, ge=0, le=1_000_000,
        description="epochs between two measurements of the accuracy on `eval_images`; 0: off; null: as "
        "often as 3 % of the computation allow",
    )  # fmt: skip
    eval_images: int | None = Field(
        None, ge=0, le=COUNT,
        description="search images that retrain does not train on, to measure its accuracy; 0: train on "
        "all images; null: 1 % of the images, at least 100 (none of fewer than 2,000)",
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _spec_of_init(cls, data: Any) -> Any:
        """Train the network of ``init`` if it is a model and no other network is given."""
        if isinstance(data, dict) and "spec" not in data and data.get("init", "scratch") not in ("scratch", "supernet"):
            return data | {"spec": "init"}
        return data

    @model_validator(mode="after")
    def _check_init(self) -> Retrain:
        if self.freeze != "backbone" and self.freeze < 0:
            raise ValueError(f"freeze must be a number of layers, 0 or more, or backbone (given: {self.freeze})")
        if self.spec == "init" and self.init in ("scratch", "supernet"):
            raise ValueError(f"spec is init, but init is {self.init}, not a model; give the network to train")
        if self.distill_token and self.teacher.model is None:
            raise ValueError("distill_token learns from a teacher; set teacher.model")
        if self.distill_token and self.init == "supernet":
            raise ValueError("distill_token: a supernet has no such token; use init=scratch")
        for name in ("init_weights", "resume_from"):
            if self.init != "scratch" and getattr(self, name):
                raise ValueError(f"{name} and init both give the initial weights; set one of them")
        return self
