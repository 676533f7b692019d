"""Plot networks layer by layer, one above the other with the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vitas_ds.arch import cost
from vitas_ds.arch.space import WidthTable
from vitas_ds.arch.spec import LayerSpec, SubnetSpec
from vitas_ds.errors import UserError

QKV, MLP, GREY, PALE = "#3b6fb6", "#d9822b", "#8a8a8a", "#efefef"


def plot_net(specs: SubnetSpec | Sequence[SubnetSpec], path: Path, names: Sequence[str] = ()) -> None:
    """Plot one or more networks to an image file.

    Bars upwards are the total width of q, k and v, with one strip per head; bars downwards are the hidden width of the
    MLP. The dashed lines are embed_dim. A grey position is an identity.

    Raises:
        UserError: The file cannot be written, or its suffix is not an image format.
    """
    specs = [specs] if isinstance(specs, SubnetSpec) else list(specs)
    positions = max(len(spec.layers) for spec in specs)
    qkv_dim, mlp_dim = (max(getattr(x, f) for s in specs for x in s.active) for f in ("qkv_dim", "mlp_dim"))
    figure = Figure(figsize=(max(6.5, 1.6 + 0.55 * positions), 0.8 + 2.7 * len(specs)), layout="constrained")
    axes = figure.subplots(len(specs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, (axis, spec) in enumerate(zip(axes, specs, strict=True)):
        _draw(axis, spec, names[i] if names else "", qkv_dim, mlp_dim)
    axes[-1].set_xticks(range(positions), [str(i) for i in range(positions)])
    axes[-1].set_xlim(-0.6, positions - 0.4)
    axes[-1].set_xlabel("position")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from None


def _draw(axis: Axes, spec: SubnetSpec, name: str, qkv_dim: int, mlp_dim: int) -> None:
    """Draw one network; the axes reach to the largest ``qkv_dim`` and ``mlp_dim`` of all networks."""
    table = WidthTable.from_specs([spec])
    macs, params = cost.macs(table)[0] / 1e9, cost.params(table)[0] / 1e6
    text = f"patch {spec.patch_size}, embed_dim {spec.embed_dim}, {spec.depth} layers: {macs:.2f}G MACs, {params:.1f}M"
    axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
    axis.set_title(f"{text} parameters", loc="right", fontsize=9)
    for i, layer in enumerate(spec.layers):
        if layer is None:
            axis.axvspan(i - 0.37, i + 0.37, color=PALE, zorder=-1)
            axis.text(i, 0.3 * qkv_dim, "identity", rotation=90, ha="center", va="bottom", fontsize=7, color=GREY)
        else:
            _draw_layer(axis, i, layer, 0.012 * (qkv_dim + mlp_dim))
    axis.axhline(0, color="black", linewidth=0.8, zorder=0)
    for width in (spec.embed_dim, -spec.embed_dim):
        axis.axhline(width, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=3)
    line = 0.06 * (qkv_dim + mlp_dim)  # height of a line of text
    axis.set_ylim(-mlp_dim - 1.5 * line, qkv_dim + 2.5 * line)
    axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axis.set_ylabel("MLP    |    q/k/v", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _draw_layer(axis: Axes, i: int, layer: LayerSpec, gap: float) -> None:
    axis.bar(i, layer.qkv_dim, 0.74, color=QKV, zorder=1)
    axis.bar(i, -layer.mlp_dim, 0.74, color=MLP, zorder=1)
    cuts = [i - 0.37 + 0.74 * head / layer.num_heads for head in range(1, layer.num_heads)]
    axis.vlines(cuts, 0, layer.qkv_dim, "white", linewidth=0.6, zorder=2)
    axis.text(i, layer.qkv_dim + gap, f"{layer.num_heads}h\n{layer.qkv_dim}", ha="center", va="bottom", fontsize=7)
    axis.text(i, -layer.mlp_dim - gap, str(layer.mlp_dim), ha="center", va="top", fontsize=7)


def _legend() -> list[Patch | Line2D]:
    return [
        Patch(color=QKV, label="q, k and v, one strip per head"),
        Patch(color=MLP, label="MLP, hidden width"),
        Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), label="embed_dim"),
    ]
