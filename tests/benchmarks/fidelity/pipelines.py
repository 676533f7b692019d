"""Whole searches of part 5 of the study. Each ends with networks to train alone, and the compute it took."""
# U: MACs of the training of one network of average cost alone

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.fidelity import regression, supernets, zero_cost
from tests.benchmarks.fidelity.halving import Trainings, halve
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.study import Study
from tests.benchmarks.fidelity.supernets import Variant
from vitas_ds.arch import genome
from vitas_ds.arch.cost import spec_macs
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.config import Finalists
from vitas_ds.engine.precision import autocast
from vitas_ds.search.feasible import operators
from vitas_ds.search.feasible.table import feasible_set
from vitas_ds.search.loop import run_loop
from vitas_ds.search.problem import SearchProblem
from vitas_ds.search.ranking import ranked
from vitas_ds.search.scoring import ledger
from vitas_ds.search.scoring.evaluation import Evaluator
from vitas_ds.search.scoring.scorer import balanced_order
from vitas_ds.search.trials import correction
from vitas_ds.search.trials.plan import Rung, added_steps, make_rungs

OURS = supernets.VARIANTS["nested, a quarter as long"]  # frozen before the first search with it
SCORES_ALONE = supernets.NESTED
FIRST_RELEASE = supernets.UNIFORM
SCORED = 2000  # images of a score
COUNT, KEEP = 8, 0.5  # finalists, and the share that goes on
SHORT = 1 / 4  # part of a training to which a regression is fitted
PREDICTED = 10  # networks that the regression orders, relative to those of the rules

Score = Callable[[SubnetSpec], float]


@dataclass(frozen=True)
class Context:
    """What a search works with.

    Attributes:
        study: The study; its budget is that of the search.
        images: The images.
        seed: Seed of everything.
        folder: Folder of the progress of this search.
    """

    study: Study
    images: Images
    seed: int
    folder: Path

    def units(self, macs: float) -> float:
        """Convert MACs of forward passes of single images to U."""
        study = self.study
        return macs / (3 * study.net_steps * study.config.retrain.batch_size * float(np.mean(study.budget)))

    def random_nets(self, count: int) -> list[SubnetSpec]:
        """Return distinct random networks within the budget."""
        space, (low, high) = self.study.config.space, self.study.budget
        feasible = feasible_set(space, {"macs": (int(low), int(high))})
        rows = operators.sample_distinct(feasible, count, np.random.default_rng([self.seed, 0xD]))
        return [spec.canonical() for spec in genome.decode_all(space, rows)]

    def finalists(self, specs: list[SubnetSpec]) -> dict[str, Any]:
        """Train the first networks as the product trains finalists, see ``halving``."""
        best = specs[:COUNT]
        rungs = make_rungs(Finalists(count=len(best), steps=self.study.net_steps, keep=KEEP), len(best))
        return self.halving(best, rungs, "finalists")

    def halving(self, specs: list[SubnetSpec], rungs: list[Rung], folder: str) -> dict[str, Any]:
        """Train networks by successive halving. Returns the winner, all curves, and the cost."""
        study = self.study
        trainings = Trainings(self.folder / folder, self.images, study.config, study.net_steps, self.seed)
        rows = halve(specs, rungs, trainings.accuracy)
        return {
            "pick": rows[0]["spec"].to_dict(), "units": self.units(_macs(rows, rungs, study.config.retrain.batch_size)),
            "curves": [{"spec": row["spec"].to_dict(), "curve": row["curve"]} for row in rows],
        }  # fmt: skip

    def short_trainings(self, nets: list[SubnetSpec]) -> tuple[np.ndarray, float]:
        """Train networks for a short time, with a schedule of that length.

        Returns their accuracies on the search images, and the cost in U.
        """
        study, step = self.study, max(2, round(SHORT * self.study.net_steps))
        trainings = Trainings(self.folder / "fitted", self.images, study.config, step, self.seed)
        macs = 3 * study.config.retrain.batch_size * step * sum(map(spec_macs, nets))
        return np.array([trainings.accuracy(net, step) for net in nets]), self.units(float(macs))


def _macs(rows: list[dict[str, Any]], rungs: list[Rung], batch_size: int) -> float:
    """Return the MACs of the trainings: three forward passes for each image."""
    added = dict(zip((rung.steps for rung in rungs), added_steps(rungs), strict=True))
    return float(sum(3 * batch_size * added[step] * spec_macs(row["spec"]) for row in rows for step in row["curve"]))


def with_supernet(context: Context) -> dict[str, Any]:
    """Methods a, b and c: evolution and random search on one supernet, each with and without finalists.

    The scores are corrected with short trainings of a few random networks.
    """
    supernet, cost = _supernet(context, OURS)
    score = _scorer(context, supernet)
    nets = context.random_nets(context.study.size.corrected)
    accuracies, fitting = context.short_trainings(nets)
    fitting += _scoring_units(context, supernet, nets)
    fitness = _corrected(nets, accuracies, score)
    found = {algorithm: _search_and_train(context, supernet, fitness, algorithm) for algorithm in ("ga", "random")}
    return {"supernet_units": cost, "fitting_units": fitting, "accuracies": accuracies.tolist()} | found


def by_score(context: Context) -> dict[str, Any]:
    """Method i: evolution by the scores of a supernet, which gets the compute that the correction takes in a."""
    supernet, cost = _supernet(context, SCORES_ALONE)
    found = _search_and_train(context, supernet, _scorer(context, supernet), "ga")
    return {"supernet_units": cost, "ga": found}


def _search_and_train(context: Context, supernet: supernets.Supernet, fitness: Score, algorithm: str) -> dict[str, Any]:
    found = _search(context, fitness, algorithm)
    return {
        "pick": found[0].to_dict(), "scoring_units": _scoring_units(context, supernet, found),
        "finalists": context.finalists(found),
    }  # fmt: skip


def _corrected(nets: list[SubnetSpec], accuracies: np.ndarray, score: Score) -> Score:
    """Return scores that predict the accuracy of a short training. ``nets`` are those of the trainings."""
    found = correction.fit(nets, np.array([score(net) for net in nets]), accuracies)
    return lambda spec: float(found([spec], np.array([score(spec)]))[0])


def with_regression(context: Context) -> dict[str, Any]:
    """Method h: a regression on the genes, fitted to short trainings of random networks, orders many others."""
    size = context.study.size
    nets = context.random_nets(size.fitted)
    accuracies, fitting = context.short_trainings(nets)
    predict = regression.fit(correction.genes(WidthTable.from_specs(nets)), accuracies)
    pool = context.random_nets(PREDICTED * size.ruled)
    order = np.argsort(-predict(correction.genes(WidthTable.from_specs(pool))), kind="stable")
    best = [pool[i] for i in order[:COUNT]]
    return {
        "pick": best[0].to_dict(), "fitting_units": fitting, "accuracies": accuracies.tolist(),
        "finalists": context.finalists(best),
    }  # fmt: skip


def first_release(context: Context) -> dict[str, Any]:
    """Method f: uniform genes with a fitted identity probability, bilateral sharing, best score."""
    supernet, cost = _supernet(context, FIRST_RELEASE)
    found = _search(context, _scorer(context, supernet), "ga", {"random_fraction": 0.0})
    scoring = _scoring_units(context, supernet, found)
    return {"pick": found[0].to_dict(), "supernet_units": cost, "scoring_units": scoring}


def random_halving(context: Context) -> dict[str, Any]:
    """Method d: successive halving of random networks, a few and many. The few are the first of the many.

    All train for 1/8 of the steps, half of them for 1/4, a quarter for 1/2 and an eighth to the end: shorter trainings
    would rank them badly.
    """
    sizes, steps = context.study.size.random, context.study.net_steps
    nets = context.random_nets(max(sizes))
    shares = (1 / 8, 1 / 4, 1 / 2, 1)
    rungs = {n: [Rung(max(1, round(n / 8 / share)), round(share * steps)) for share in shares] for n in sizes}
    return {str(count): context.halving(nets[:count], rungs[count], "random") for count in reversed(sizes)}


def rules(context: Context) -> dict[str, Any]:
    """Method g: the best of many random candidates by simple rules and by published scores of untrained networks."""
    nets = context.random_nets(context.study.size.ruled)
    batch = next(context.images.batches(64, context.seed))
    scores: dict[str, Callable[[SubnetSpec], Any]] = {
        "most layers": lambda spec: (spec.depth, spec_macs(spec)), "most MACs": spec_macs,
        "DSS": lambda spec: zero_cost.dss(spec, context.seed),
        "PreNAS": lambda spec: zero_cost.prenas(spec, *batch, context.seed),
    }  # fmt: skip
    return {name: {"pick": max(nets, key=score).to_dict()} for name, score in scores.items()}


def by_hand(context: Context) -> dict[str, Any]:
    """Method e: DeiT's shape for each patch size: equal layers, MLP ratio 4 or the closest, as deep as possible.

    DeiT has 12 layers and heads of 64 channels, which no small budget allows. Of all networks of equal layers within
    the budget, this is the one closest to an MLP ratio of 4 and q/k/v width of 3 (as factors), then the deepest one.
    """
    space, (low, high) = context.study.config.space, context.study.budget
    picks: dict[str, Any] = {}
    for patch in space.patch_sizes:
        shapes = [
            SubnetSpec(space.image_size, patch, width, space.num_classes, (LayerSpec(heads, qkv, mlp),) * depth)
            for width in space.embed_widths for qkv in space.qkv_widths for mlp in space.mlp_widths
            for depth in range(space.min_layers, space.depth + 1) for heads in space.num_heads
        ]  # fmt: skip
        inside = [spec for spec in shapes if low <= spec_macs(spec) <= high]
        if inside:
            picks[f"patch {patch}"] = {"pick": min(inside, key=_unlike_deit).to_dict()}
    return picks


def _unlike_deit(spec: SubnetSpec) -> tuple[float, int, int]:
    layer = spec.active[0]
    ratios = layer.mlp_dim / spec.embed_dim / 4, layer.qkv_dim / spec.embed_dim / 3
    return float(np.abs(np.log2(ratios)).sum().round(3)), -spec.depth, abs(layer.head_dim - 16)


METHODS = {
    "supernet": with_supernet, "scores": by_score, "first release": first_release, "random halving": random_halving,
    "rules": rules, "by hand": by_hand, "regression": with_regression,
}  # fmt: skip


def picks(row: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Yield every network that a search ends with, as a dictionary."""
    for key, value in row.items():
        if key == "pick":
            yield value
        elif isinstance(value, dict):
            yield from picks(value)


def _supernet(context: Context, variant: Variant) -> tuple[supernets.Supernet, float]:
    """Train a supernet and return it with its cost in U."""
    (plan,) = supernets.plans(context.study, variant, context.seed)
    trainer = supernets.make_trainer(plan, context.study, context.seed)
    progress = supernets.Saved(context.folder / f"{variant.name}.pt", trainer)
    progress.run(context.images, context.seed)
    progress.save()
    trainer.model.eval()
    return trainer.model, context.units(3 * plan.macs)  # type: ignore[return-value]


def _scorer(context: Context, supernet: supernets.Supernet) -> Score:
    """Return the accuracy of a network in a supernet on some of the search images."""
    base, (pixels, labels) = context.study.config, context.images.search
    order = torch.from_numpy(balanced_order(labels.numpy(), min(SCORED, len(labels)), base.run.seed))
    x, y = context.images.normalized(pixels[order]), labels[order]
    return cache(lambda spec: _accuracy(supernet, spec, x, y, base.engine.precision))


def _scoring_units(context: Context, supernet: supernets.Supernet, specs: list[SubnetSpec]) -> float:
    images = min(SCORED, len(context.images.search[1]))
    return context.units(float(len(supernet.sides) * images * sum(map(spec_macs, specs))))


def _search(
    context: Context, fitness: Score, algorithm: str, changes: dict[str, Any] | None = None
) -> list[SubnetSpec]:
    """Return the distinct networks that a search has scored, best first."""
    base, size = context.study.config, context.study.size
    cfg = base.search.model_copy(
        update={"population": size.population, "generations": size.generations, "algorithm": algorithm}
        | (changes or {})
    )
    problem = SearchProblem(base.space, cfg, context.seed)
    result = run_loop(problem, Evaluator(lambda specs: map(fitness, specs), ledger.in_memory()))
    return list({c.spec.key(): c.spec.canonical() for c in ranked(result.candidates)}.values())


@torch.inference_mode()
def _accuracy(supernet: supernets.Supernet, spec: SubnetSpec, x: Tensor, y: Tensor, precision: str) -> float:
    with autocast(precision, torch.device("cpu")):
        logits = torch.cat([supernet(part, spec) for part in x.split(500)], 1)
    return (logits.argmax(-1) == y).double().mean().item()
