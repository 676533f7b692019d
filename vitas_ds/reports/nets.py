"""The best networks of a run, compared with published networks of similar cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vitas_ds.arch import cost
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import SubnetSpec, read_spec, spec_from_dict
from vitas_ds.config import Config
from vitas_ds.reports import svg
from vitas_ds.reports.svg import short
from vitas_ds.run.files import read_json
from vitas_ds.run.run_dir import RunDir, read_summary

CANDIDATES = ("best candidate", "second candidate", "third candidate")
HEADER = ("network", "accuracy", "MACs", "ViTAS FLOPs", "parameters", "layers", "embedding", "patches")


@dataclass(frozen=True)
class Network:
    """A network with its name and, if known, its accuracy."""

    name: str
    spec: SubnetSpec
    accuracy: str = ""

    @property
    def macs(self) -> int:
        """Exact multiply-accumulates per image."""
        return cost.spec_macs(self.spec)

    @property
    def title(self) -> str:
        """Caption of its drawing."""
        return ", ".join(filter(None, (self.name, f"{short(self.macs)} MACs", self.accuracy)))

    def row(self) -> tuple[str, ...]:
        """Return its row of the table, in the columns of ``HEADER``."""
        table, spec = WidthTable.from_specs([self.spec]), self.spec
        costs = [f"{int(count(table)[0]):,}" for count in (cost.macs, cost.vitas_flops, cost.params)]
        patches = f"{spec.num_patches} of {spec.patch_size} px"
        return self.name, self.accuracy, *costs, str(spec.depth), str(spec.embed_dim), patches


def compared_networks(run: RunDir) -> list[Network]:
    """Return the networks of the run and their published neighbors; empty before the search has ended."""
    own = own_networks(run)
    return [*own, *neighbors(own[0].spec)] if own else []


def section(networks: list[Network], config: Config) -> dict[str, Any]:
    """Return drawings and table rows for the template.

    All drawings have one scale: a full bar is the largest width of the space and of all networks shown.
    """
    layers = [layer for network in networks for layer in network.spec.active]
    qkv_dim = max(config.space.qkv_dim, *(layer.qkv_dim for layer in layers)) if layers else 0
    mlp_dim = max(config.space.mlp_dim, *(layer.mlp_dim for layer in layers)) if layers else 0
    drawings = [svg.net(network.title, network.spec, qkv_dim, mlp_dim) for network in networks]
    return {"drawings": drawings, "header": HEADER, "rows": [network.row() for network in networks]}


def own_networks(run: RunDir) -> list[Network]:
    """Return the retrained network and the best three candidates; equal networks are listed once."""
    top = read_json(run.best, {"top": []})["top"][: len(CANDIDATES)]
    found = [
        Network(name, spec_from_dict(row["spec"]), _accuracy(row)) for name, row in zip(CANDIDATES, top, strict=False)
    ]
    if not run.retrain_spec.exists():
        return found
    spec, summary = read_spec(run.retrain_spec), read_summary(run).get("retrain", {})
    top1 = f"top-1 {summary['top1']:.2%}" if "top1" in summary else ""
    same = [network for network in found if network.spec == spec]
    name = f"retrained, {same[0].name}" if same else "retrained"
    accuracy = ", ".join(filter(None, (top1, same[0].accuracy if same else "")))
    return [Network(name, spec, accuracy), *(network for network in found if network.spec != spec)]


def _accuracy(row: dict[str, Any]) -> str:
    """Describe an entry of ``best.json``: its score and, if it was trained, its accuracy."""
    trained = row.get("finalist")
    after = f", accuracy {trained['accuracy']:.1%} after {trained['steps']:,} steps" if trained else ""
    return f"search score {row['score']:.1%}{after}"


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
