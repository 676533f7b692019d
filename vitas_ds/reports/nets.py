"""The best networks of a run, next to DeiT scaled by hand to the same budget, and published ones of similar cost."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.arch import cost
from vitas_ds.arch.hand_scaled import hand_scaled
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec, read_spec, spec_from_dict
from vitas_ds.config import Config
from vitas_ds.reports import net_drawing
from vitas_ds.reports.candidates import Candidates
from vitas_ds.reports.net_drawing import Scale, scale_of
from vitas_ds.reports.search_section import Budget, budgets_of, with_error
from vitas_ds.reports.svg import short
from vitas_ds.run.files import read_json, write_json
from vitas_ds.run.run_dir import RunDir
from vitas_ds.run.summary import read_summary
from vitas_ds.search.latency.facts import describe_row

SCALED = "DeiT scaled by hand"
BASELINE, BASELINE_MACS = f"{SCALED} to the same budget", f"{SCALED}, at most"
CANDIDATES = ("best candidate", "second candidate", "third candidate")
HEADER = ("network", "accuracy", "MACs", "ViTAS FLOPs", "parameters", "layers", "embedding", "patches")


@dataclass(frozen=True)
class Network:
    """A network with its name and, if known, its accuracy and latency."""

    name: str
    spec: SubnetSpec
    accuracy: str = ""
    latency: str = ""

    @property
    def macs(self) -> int:
        """Exact multiply-accumulates per image."""
        return cost.spec_macs(self.spec)

    @property
    def title(self) -> str:
        """Caption of its drawing."""
        return ", ".join(filter(None, (self.name, f"{short(self.macs)} MACs", self.accuracy)))

    def row(self, latency: bool) -> tuple[str, ...]:
        """Return its row of the table, in the columns of ``HEADER``, and with its latency."""
        table, spec = WidthTable.from_specs([self.spec]), self.spec
        costs = [f"{int(count(table)[0]):,}" for count in (cost.macs, cost.vitas_flops, cost.params)]
        patches = f"{spec.num_patches} of {spec.patch_size} px"
        return (
            self.name,
            self.accuracy,
            *costs,
            str(spec.depth),
            str(spec.embed_dim),
            patches,
            *([self.latency] if latency else []),
        )


def compared_networks(run: RunDir, config: Config, candidates: Candidates) -> list[Network]:
    """Return the networks of the run, DeiT scaled by hand, and published neighbors; empty before the search ends."""
    own = own_networks(run)
    if not own:
        return []
    first, *others = own
    return [first, *baseline(config, first.spec, candidates), *others, *neighbors(first.spec)]


def baseline(config: Config, spec: SubnetSpec, candidates: Candidates) -> list[Network]:
    """Return DeiT's shape, scaled by hand to the budget of the search, with the patch size of a network.

    Without a counted budget, it has the MACs of the network. Empty if the space has no such network.
    """
    scaled, limited = _scaled(config, spec)
    if scaled is None:
        return []
    found = candidates.find(scaled)
    score = f"search score {with_error(found.value, found.stderr)}" if found else ""
    return [Network(BASELINE if limited else f"{BASELINE_MACS} {short(cost.spec_macs(spec))} MACs", scaled, score)]


def _scaled(config: Config, spec: SubnetSpec) -> tuple[SubnetSpec | None, bool]:
    """Return the scaled network, and whether it is within a budget of the search."""
    counted = [{name: budget[name] for name in budget if name in cost.COSTS} for budget in budgets_of(config.search)]
    inside = [budget for budget in counted if budget and _is_inside(spec, budget)]
    budget = inside[0] if inside else {"macs": (0.0, float(cost.spec_macs(spec)))}
    return hand_scaled(config.space, budget, spec.patch_size), bool(inside)


def _is_inside(spec: SubnetSpec, budget: Budget) -> bool:
    table = WidthTable.from_specs([spec])
    return all(low <= int(cost.COSTS[name](table)[0]) <= high for name, (low, high) in budget.items())


def write_baseline(run: RunDir, config: Config) -> None:
    """Write the spec of the scaled network next to the page, for ``retrain.spec``; nothing before the search ends."""
    own = own_networks(run)
    spec = _scaled(config, own[0].spec)[0] if own else None
    if spec is not None:
        write_json(hand_scaled_file(run), spec.to_dict())


def hand_scaled_file(run: RunDir) -> Path:
    """Return the file of the spec of the scaled network."""
    return run.report.with_name("hand_scaled.json")


def training_command(run: RunDir, networks: list[Network]) -> str:
    """Return the command that trains the scaled network like the found one; empty without it."""
    if not any(network.name.startswith(SCALED) for network in networks):
        return ""
    words = "vitas", "retrain", str(run.path), f"retrain.spec={hand_scaled_file(run)}", f"run.name={run.name}_by_hand"
    return shlex.join(words)


def section(networks: list[Network], config: Config) -> dict[str, Any]:
    """Return drawings and table rows for the template. All drawings have one scale."""
    space = config.space
    scale = scale_of([network.spec for network in networks], Scale(space.embed_dim, space.qkv_dim, space.mlp_dim))
    drawings = [net_drawing.draw(network.title, network.spec, scale) for network in networks]
    latency = any(network.latency for network in networks)
    rows = [network.row(latency) for network in networks]
    return {"drawings": drawings, "header": [*HEADER, *(["latency"] if latency else [])], "rows": rows}


def own_networks(run: RunDir) -> list[Network]:
    """Return the retrained network and the best three candidates; equal networks are listed once."""
    top = read_json(run.best, {"top": []})["top"][: len(CANDIDATES)]
    setting = read_summary(run).get("search", {}).get("latency")
    found = [
        Network(name, spec_from_dict(row["spec"], str(run.best)), _accuracy(row), _latency(row, setting))
        for name, row in zip(CANDIDATES, top, strict=False)
    ]
    if not run.retrain_spec.exists():
        return found
    spec, summary = read_spec(run.retrain_spec), read_summary(run).get("retrain", {})
    top1 = f"top-1 {summary['top1']:.2%}" if "top1" in summary else ""
    same = [network for network in found if network.spec == spec]
    name = f"retrained, {same[0].name}" if same else "retrained"
    accuracy = ", ".join(filter(None, (top1, same[0].accuracy if same else "")))
    latency = same[0].latency if same else ""
    return [Network(name, spec, accuracy, latency), *(network for network in found if network.spec != spec)]


def _accuracy(row: dict[str, Any]) -> str:
    """Describe an entry of ``best.json``: its score and, if it was trained, its accuracy."""
    trained = row.get("finalist")
    after = f", accuracy {trained['accuracy']:.1%} after {trained['steps']:,} steps" if trained else ""
    return f"search score {with_error(row['score'], row.get('stderr'))}{after}"


def _latency(row: dict[str, Any], setting: dict[str, Any] | None) -> str:
    """Describe the latencies of an entry of ``best.json``; empty if the search had none."""
    return "" if setting is None else "; ".join(map(": ".join, describe_row(row, setting).items()))


def neighbors(spec: SubnetSpec, max_vitas: int = 2) -> list[Network]:
    """Return the DeiT and the ``max_vitas`` ViTAS networks with the nearest MACs, measured as a ratio.

    Only networks for images of the same size are compared.
    """
    macs = cost.spec_macs(spec)
    candidates = [row for row in map(published, names()) if row.spec.image_size == spec.image_size]
    candidates.sort(key=lambda row: abs(math.log(cost.spec_macs(row.spec) / macs)))
    deit = [row for row in candidates if row.name.startswith("deit")][:1]
    vitas = [row for row in candidates if not row.name.startswith("deit")][:max_vitas]
    return [Network(row.name, row.spec, f"top-1 {row.top1}% (paper)") for row in (*deit, *vitas)]
