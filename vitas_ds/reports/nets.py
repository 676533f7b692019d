"""Nets on a page: what the search found, beside DeiT and the published nets that cost about as much."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from vitas_ds.arch import cost
from vitas_ds.arch.published import names, published
from vitas_ds.arch.space import columns_of
from vitas_ds.arch.spec import SubnetSpec, read_spec, spec_from_dict
from vitas_ds.config import Config
from vitas_ds.reports import html, svg
from vitas_ds.reports.svg import short
from vitas_ds.run.run_dir import RunDir, read_summary

FOUND = ("best of the search", "second of the search", "third of the search")
HEADER = ("net", "accuracy", "MACs", "ViTAS FLOPs", "parameters", "layers", "embedding", "patches")


@dataclass(frozen=True)
class Drawn:
    """A net with its name and what is known of its accuracy."""

    name: str
    spec: SubnetSpec
    accuracy: str = ""

    @property
    def macs(self) -> int:
        """Exact multiply-accumulates of an image."""
        return cost.spec_macs(self.spec)

    def row(self) -> tuple[str, ...]:
        """Its row of the table, as ``HEADER`` says."""
        table, spec = columns_of([self.spec]), self.spec
        costs = [f"{int(count(table)[0]):,}" for count in (cost.macs, cost.vitas_flops, cost.params)]
        patches = f"{spec.num_patches} of {spec.patch_size} px"
        return self.name, self.accuracy, *costs, str(spec.depth), str(spec.embed_dim), patches


def section(run: RunDir, config: Config) -> list[str]:
    """The run's nets and the published ones near them: a drawing each, to one scale, and a table of all."""
    nets = own_nets(run)
    return pictures([*nets, *neighbours(nets[0].spec)], config) if nets else []


def pictures(nets: list[Drawn], config: Config) -> list[str]:
    """A drawing of each net, to one scale (a full bar is the largest width of all, and of the space), and a table."""
    layers = [layer for net in nets for layer in net.spec.active]
    qkv = max(config.space.qkv_dim, *(layer.qkv_dim for layer in layers))
    mlp = max(config.space.mlp_dim, *(layer.mlp_dim for layer in layers))
    titles = [", ".join(filter(None, (net.name, f"{short(net.macs)} MACs", net.accuracy))) for net in nets]
    drawings = [svg.net(title, net.spec, qkv, mlp) for title, net in zip(titles, nets, strict=True)]
    return [html.charts(*drawings), html.table([net.row() for net in nets], HEADER, whole=True)]


def own_nets(run: RunDir) -> list[Drawn]:
    """The retrained net, and the search's best three; a net that is both stands once."""
    top = json.loads(run.best.read_text())["top"][: len(FOUND)] if run.best.exists() else []
    nets = [
        Drawn(name, spec_from_dict(row["spec"]), f"search score {row['score']:.1%}")
        for name, row in zip(FOUND, top, strict=False)
    ]
    if not run.retrain_spec.exists():
        return nets
    spec, measured = read_spec(run.retrain_spec), read_summary(run).get("retrain", {})
    top1 = f"top-1 {measured['top1']:.2%}" if "top1" in measured else ""
    same = [net for net in nets if net.spec == spec]
    name = f"retrained, {same[0].name}" if same else "retrained"
    known = [word for word in (top1, same[0].accuracy if same else "") if word]
    return [Drawn(name, spec, ", ".join(known)), *(net for net in nets if net.spec != spec)]


def neighbours(spec: SubnetSpec, most: int = 2) -> list[Drawn]:
    """The DeiT and the ``most`` ViTAS nets whose MACs are nearest (as a ratio); none where images have another size."""
    nets = [published(name) for name in names()]
    nets = [net for net in nets if net.spec.image_size == spec.image_size]
    own = cost.spec_macs(spec)
    nets.sort(key=lambda net: abs(math.log(cost.spec_macs(net.spec) / own)))
    deit = [net for net in nets if net.name.startswith("deit")][:1]
    vitas = [net for net in nets if not net.name.startswith("deit")][:most]
    return [Drawn(net.name, net.spec, f"top-1 {net.top1}%, its paper's") for net in (*deit, *vitas)]
