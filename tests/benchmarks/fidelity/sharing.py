"""What does it cost a subnet to share its weights? One subnet in supernets that search more and more genes.

Every supernet trains for the same number of steps, one random subnet a step. In the first one, all genes have only the
choices of the observed subnet, so that it trains alone. The others have all choices of one gene, of all genes but one,
or of all genes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.fidelity import supernets, tables
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Study
from tests.benchmarks.fidelity.training import Saved
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.training import sampling

LENGTH = 0.5  # steps relative to the training of a subnet alone
CURVE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # shares of the steps after which the subnet is scored
SHOWN = 3  # of these, the last
ALONE, ALL = "alone", "all genes"
SETTINGS: dict[str, Any] = {"distribution": "uniform", "sharing": "ordinal"}
NOTES = """Accuracy on the search images of one subnet in supernets with ordinal sharing and uniform genes. All train
for the same number of images. *as good as* is the number of steps after which the subnet has the same accuracy when it
trains alone, by linear interpolation."""


def space_of(study: Study, genes: tuple[str, ...]) -> SearchSpace:
    """Return the space in which only some genes have all their choices; the others are those of ``observed``."""
    space = study.config.space
    attn, mlp = _middle(space.qkv_widths), _middle(space.mlp_widths)
    fixed: dict[str, dict[str, Any]] = {
        "patch size": {"patch_sizes": space.patch_sizes[:1]},
        "embed_dim": {"embed_dim": _middle(space.embed_widths), "embed_ratios": (1.0,)},
        "layers": {"depth": (space.min_layers + space.depth) // 2, "identity": False, "min_depth": 1},
        "heads": {"num_heads": (_middle(space.num_heads),)},
        "widths": {"qkv_dim": attn, "qkv_ratios": (1.0,), "mlp_dim": mlp, "mlp_ratios": (1.0,)},
    }
    changes = {key: value for gene in fixed if gene not in genes for key, value in fixed[gene].items()}
    return SearchSpace(**(space.model_dump() | changes))


def _middle(choices: tuple[int, ...]) -> int:
    return choices[(len(choices) - 1) // 2]


def observed(study: Study) -> SubnetSpec:
    """Return the subnet with the first patch size and the middle choice of every other gene."""
    space = space_of(study, ())
    layer = LayerSpec(space.num_heads[0], space.qkv_widths[0], space.mlp_widths[0])
    return SubnetSpec(
        space.image_size, space.patch_sizes[0], space.embed_widths[0], space.num_classes, (layer,) * space.depth
    )


GENES = ("patch size", "embed_dim", "layers", "heads", "widths")
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = {  # genes, changes of the space, settings
    ALONE: ((), {}, {}),
    **{gene: ((gene,), {}, {}) for gene in GENES},
    **{f"all but {gene}": (tuple(other for other in GENES if other != gene), {}, {}) for gene in GENES},
    ALL: (GENES, {}, {}),
    "all genes, first positions": (GENES, supernets.FIRST, {}),
    "all genes, first positions, nothing private": (GENES, supernets.FIRST, {"private_attention": 0}),
    "all genes, first positions, private norms": (GENES, supernets.FIRST, {"private_norms": True}),
    "all genes, first positions, small batches": (GENES, supernets.FIRST, supernets.SMALL_BATCHES),
}


def plan(study: Study, case: str, seed: int) -> supernets.Plan:
    """Return the supernet of a case."""
    genes, changes, settings = CASES[case]
    space = space_of(study, genes).model_copy(update=changes)
    supernet = study.config.supernet.model_copy(update=SETTINGS | settings)
    net = observed(study)
    prob = 1 - net.depth / space.depth if space.identity else 0.0  # the same depth on average
    steps = max(4, round(LENGTH * study.net_steps * study.config.retrain.batch_size / supernet.batch_size))
    return supernets.Plan(space, supernet, lambda step: [sampling.draw(space, seed, step, prob)], steps, macs=0.0)


def train(study: Study, case: str, images: Images, seed: int, saved: Path) -> dict[str, Any]:
    """Train the supernet of a case. Returns the accuracy of the observed subnet by the share of the steps."""
    of = plan(study, case, seed)
    trainer = supernets.make_trainer(of, study, seed)
    progress, net = Saved(saved, trainer), observed(study)
    for share in CURVE:
        progress.run(images, seed, round(share * of.steps))
        if str(share) not in progress.results:
            logits = supernets.search_logits(trainer.model, net, images, study.config.engine.precision)
            hits = logits.argmax(-1) == images.search[1]
            progress.results[str(share)] = hits.double().mean().item()
    return {
        "net": net.to_dict(), "steps": of.steps, "curve": progress.results,
        "training_seconds": round(progress.seconds, 1),
    }  # fmt: skip


def report(record: Record) -> str:
    """Return the table with its notes."""
    net = record.of("sharing")[0]["net"]
    layers = net["layers"]
    described = (
        f"The subnet: patch size {net['patch_size']}, embed_dim {net['embed_dim']}, {len(layers)} layers of "
        f"{layers[0]['num_heads']} heads,\nq/k/v width {layers[0]['qkv_dim']}, MLP width {layers[0]['mlp_dim']}."
    )
    return f"{NOTES}\n{described}\n\n{tables.table(table(record))}"


def table(record: Record) -> list[dict[str, Any]]:
    """Return a row for each case: means over the seeds."""
    found = dict[str, list[dict[str, Any]]]()
    for row in record.of("sharing"):
        found.setdefault(row["what"], []).append(row)
    curves = {case: np.mean([list(row["curve"].values()) for row in rows], 0) for case, rows in found.items()}
    rows = []
    for case in (case for case in CASES if case in curves):
        shown = list(zip(CURVE, curves[case], strict=True))[-SHOWN:]
        cells = {f"after {share:.0%}, %": f"{100 * value:.1f}" for share, value in shown}
        rows.append({"genes": case, "seeds": len(found[case]), "steps": found[case][0]["steps"]} | cells)
        if ALONE in curves:
            rows[-1]["as good as"] = as_good_as(curves[case][-1], curves[ALONE], found[ALONE][0]["steps"])
    return rows


def as_good_as(accuracy: float, alone: np.ndarray, steps: int) -> str:
    """Return the steps alone with an accuracy. ``alone``: accuracies at ``CURVE`` of a training of ``steps``."""
    marks = [share * steps for share in CURVE]
    if accuracy < alone[0]:
        return f"below {marks[0]:.0f} steps"
    return f"{np.interp(accuracy, np.maximum.accumulate(alone), marks):.0f} steps"
