"""Sections of the configuration about the search."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from vitas_ds.config.limits import Range, normal_form, parse_limit
from vitas_ds.config.section import COUNT, FilePath, Section, check_pair


class Finalists(Section):
    """Short trainings at the end of a search: they rank its best candidates by their own accuracy."""

    count: int = Field(0, ge=0, le=100_000, description="best candidates to train; 0: off")
    steps: int = Field(
        0,
        ge=0,
        le=COUNT,
        description="optimizer steps of the longest training; the schedule of `retrain` is compressed to it",
    )
    keep: float = Field(
        0.5, ge=0.01, le=0.99, description="fraction of the candidates that trains on after each rung (successive "
        "halving); each rung is 1 / keep times as long as the one before",
    )  # fmt: skip
    init: Literal["scratch", "supernet"] = Field(
        "scratch", description="initial weights: random, or inherited from the supernet"
    )

    @model_validator(mode="after")
    def _check(self) -> Finalists:
        check_pair(("count", self.count), ("steps", self.steps))
        if self.count == 1:
            raise ValueError("count must be 0, or 2 or more: one candidate has no rival")
        return self


CORRECTED = 8  # networks of the check to which a correction of the scores can be fitted


class Check(Section):
    """Short trainings at the start of a search: they show how well the supernet ranks subnets."""

    nets: int = Field(0, ge=0, le=10_000, description="random networks within the budget to train alone; 0: off")
    steps: int = Field(
        0, ge=0, le=COUNT, description="optimizer steps of each training; the schedule of `retrain` is compressed to it"
    )
    correct: bool = Field(
        False, description="correct the scores of the search by a regression on the genes and the score, fitted to "
        "these networks",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> Check:
        check_pair(("nets", self.nets), ("steps", self.steps))
        if 0 < self.nets < 4:
            raise ValueError("nets must be 0, or 4 or more: the ranking of fewer networks means nothing")
        if self.correct and self.nets < CORRECTED:
            raise ValueError(f"correct needs {CORRECTED} nets or more (given: {self.nets})")
        return self


class Search(Section):
    """Evolutionary search with the weights of the supernet (stage search)."""

    algorithm: Literal["ga", "nsga2", "random"] = Field("ga", description="GA or NSGA-II of pymoo, or random search")
    population: int = Field(50, gt=1, le=1_000_000, description="candidates per generation")
    generations: int = Field(
        40, gt=0, le=1_000_000, description="number of generations, including the initial population"
    )
    macs: Range | None = Field(None, description="budget: smallest and largest MACs of a candidate")
    vitas_flops: Range | None = Field(None, description="budget in FLOPs as the first release counts")
    params: Range | None = Field(None, description="budget in parameters")
    activations: Range | None = Field(None, description="budget in bytes of activations that training keeps per image")
    latency: Range | None = Field(None, description="budget in seconds per batch, predicted from measured networks")
    throughput: Range | None = Field(None, description="budget in images per second")
    budgets: tuple[Annotated[str, BeforeValidator(normal_form)], ...] = Field(
        (), max_length=20, description="several budgets, searched one after the other with the scores of one ledger: "
        "`[2.4G, 3.2G]` are MACs, of which candidates use at least 90 %; also `[[2.2G, 2.4G]]`, `[params<=5M, "
        "latency<5m]`",
    )  # fmt: skip
    latency_batch_size: int = Field(32, gt=0, le=1_000_000, description="batch size of latency measurements")
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
    latency_table: FilePath | None = Field(
        None, description="JSON lines of measured latencies, as the tool latency writes them; used instead of measuring"
    )
    latency_device: str | None = Field(None, description="device that search.latency_table must name; null: any one")
    latency_nets: int = Field(
        48,
        ge=12,
        le=100_000,
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
    seeds: float = Field(
        0.25, ge=0, le=1, description="elastic spaces: largest fraction of the first generation built from the "
        "importance of the units, not sampled; 0: none",
    )  # fmt: skip
    mutation_eta: float = Field(3.0, gt=0, le=1000, description="eta of polynomial mutation (3 in the first release)")
    top_k: int = Field(
        5, gt=0, le=100_000, description="best candidates to score again on all search images at the end"
    )
    side_rule: Literal["accuracy_mean", "logit_sum"] = Field(
        "accuracy_mean", description="bilateral: mean accuracy of both sides, or accuracy of the summed logits"
    )
    images: int = Field(0, ge=0, le=COUNT, description="search images per candidate; 0: all")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="precision of scoring; null: bf16 on GPUs that have it, else engine.precision"
    )
    cuda_graphs: Literal["auto"] | bool = Field(
        "auto", description="CUDA: replay the batches of a candidate as a CUDA graph; auto: if it has enough of them"
    )
    ranks_per_candidate: int = Field(
        1,
        ge=0,
        le=1_000_000,
        description="ranks that share the images of a candidate; 1: each rank scores its own, 0: all share one",
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
    reuse: FilePath | None = Field(
        None, description="run, or its ledger.jsonl, whose scores are reused (also: `search.from`); supernet, images "
        "and scoring settings must be equal",
    )  # fmt: skip
    checkpoint: FilePath | None = Field(
        None, description="supernet: a run that has trained one, weights, or a checkpoint; null: the run's own"
    )
    seed: int | None = Field(None, ge=0, le=COUNT, description="seed of the evolution alone; null: run.seed")
    check: Check = Check()
    finalists: Finalists = Finalists()

    @model_validator(mode="before")
    @classmethod
    def _from_is_reuse(cls, data: Any) -> Any:
        if isinstance(data, dict) and "from" in data:
            if data.get("reuse") not in (None, data["from"]):
                raise ValueError(f"from {data['from']} and reuse {data['reuse']} are two names of one setting; set one")
            return {name: value for name, value in data.items() if name != "from"} | {"reuse": data["from"]}
        return data

    @model_validator(mode="after")
    def _check(self) -> Search:
        for name, pair in self.budget.items():
            if not 0 <= pair[0] < pair[1]:
                raise ValueError(f"{name} must be two increasing numbers, 0 or above (given: {list(pair)})")
        if self.seconds is not None and self.seconds[0] >= self.seconds[1]:
            raise ValueError("latency and throughput contradict each other: no network satisfies both")
        if self.racing and self.check.correct:
            raise ValueError("racing compares scores image by image, check.correct changes them; turn one of them off")
        if len(set(self.budgets)) < len(self.budgets):
            raise ValueError(f"budgets: the same budget twice (given: {list(self.budgets)})")
        sizes = [self.latency_batch_size, *self.latency_also]
        if min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"latency_batch_size and latency_also must be different sizes above 0 (given: {sizes})")
        return self

    @property
    def candidates(self) -> int:
        """Number of candidates of each budget."""
        return self.population * self.generations

    @property
    def budget(self) -> dict[str, tuple[float, float]]:
        """The bounds set by the user, by field name."""
        names = ("macs", "vitas_flops", "params", "activations", "latency", "throughput")
        return {name: pair for name in names if (pair := getattr(self, name)) is not None}

    def each_budget(self) -> list[Search]:
        """Return the section of each of ``budgets``, with its limit as the budget; without any, the section itself."""
        limits = [parse_limit(text) for text in self.budgets]
        return [self._with_range(limit.cost, limit.low, limit.high) for limit in limits] or [self]

    def covering(self) -> Search:
        """Return the section with a budget that contains all of ``budgets``."""
        limits = [parse_limit(text) for text in self.budgets]
        found = self.model_copy(update={"budgets": ()})
        for cost in {limit.cost for limit in limits}:
            same = [limit for limit in limits if limit.cost == cost]
            if len(same) == len(limits):  # the others do not bound this cost
                found = found._with_range(cost, min(x.low for x in same), max(x.high for x in same))
        return found

    def _with_range(self, cost: str, low: float, high: float) -> Search:
        return self.model_copy(update={"budgets": (), cost: (low, high)})

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
        limited = any(parse_limit(text).cost == "latency" for text in self.budgets)
        return limited or self.seconds is not None or (self.algorithm == "nsga2" and "latency" in self.objectives)
