"""Check the settings of a supernet that starts from a pretrained network. This module does not import torch."""

from __future__ import annotations

import warnings
from pathlib import Path

from vitas_ds.arch import genome
from vitas_ds.arch.spec import SubnetSpec, read_spec
from vitas_ds.config import Config, Supernet
from vitas_ds.errors import UserError
from vitas_ds.run.run_dir import run_of
from vitas_ds.stages.model_folders import INIT, TIMM, find_model, is_unfinished
from vitas_ds.stages.source_run import supernet_run

NETWORK = ("prefix_tokens", "classifiers", "pool", "layer_scale", "norm_eps", "final_norm_eps")


def check_pretrained(config: Config, stage: str) -> None:
    """Check ``supernet.init``, and warn about settings without effect.

    Raises:
        UserError: The network does not exist, is not the largest one of the space, or does not fit into the space.
    """
    supernet, elastic = config.supernet, config.space.elastic
    if supernet.init == "scratch":
        if supernet.teacher.model == INIT:
            raise UserError("supernet.teacher.model: init is the network of supernet.init, which is scratch; set it")
        if elastic.on and config.search.checkpoint is None:
            warnings.warn("space.elastic: supernet.init is scratch: no pretrained network", stacklevel=2)
        for name in ("weights", "importance_images"):
            if getattr(supernet, name) != getattr(Supernet(), name):
                warnings.warn(f"supernet.{name} is ignored: supernet.init is scratch", stacklevel=2)
        return
    if not elastic.on:
        raise UserError(
            "supernet.init: the space has no pretrained network as its largest subnet; set space.elastic.head_dim and "
            "the sizes of the network, as in the recipes elastic_*"
        )
    run = run_of(config)
    started = run.supernet_weights.exists() or any(run.supernet.checkpoints.glob("step-*"))
    if stage == "train-supernet" and not started:
        _check_network(config)


def check_retrain_teacher(config: Config, stage: str) -> None:
    """Check that there is a pretrained network, if it is the teacher of the stage retrain.

    Raises:
        UserError: There is none.
    """
    run, checkpoint = run_of(config), config.search.checkpoint
    if config.retrain.teacher.model != INIT or run.retrain_weights.exists():
        return
    if checkpoint is None:
        if config.supernet.init == "scratch":
            raise UserError("retrain.teacher.model: init is the network of supernet.init, which is scratch; set it")
    elif stage in ("search", "retrain") and not supernet_run(config).pretrained.is_dir():
        raise UserError(
            f"retrain.teacher.model: init: search.checkpoint={checkpoint} has no pretrained network; give the folder "
            "of the teacher"
        )


def _check_network(config: Config) -> None:
    init, weights = config.supernet.init, config.supernet.weights
    if not init.startswith(TIMM):
        if weights is not None:
            warnings.warn("supernet.weights is ignored: supernet.init is not timm:NAME", stacklevel=2)
        if not is_unfinished(init):
            check_largest(config, read_spec(find_model(init, "supernet.init") / "spec.json"))
        return
    if weights is None:
        raise UserError(
            f"supernet.init: {init}: give the file of its weights: supernet.weights=FILE; or download them with "
            f"vitas import --net {init} --download --out DIR, and set supernet.init=DIR"
        )
    if not Path(weights).is_file():
        raise UserError(f"supernet.weights: {weights}: no such file")


def check_largest(config: Config, spec: SubnetSpec) -> None:
    """Check that a network is the largest one of the space.

    Raises:
        UserError: The message names the first setting to change.
    """
    if len(set(spec.active)) > 1:
        raise UserError(f"supernet.init: {config.supernet.init}: its layers differ; the layers must be equal")
    largest = genome.decode(config.space, genome.largest(config.space)).canonical()
    for name, ours, theirs in _settings(largest, spec):
        if ours != theirs:
            raise UserError(
                f"supernet.init: {config.supernet.init} has {name.rpartition('.')[2]} {theirs}, the largest network of "
                f"the space {ours}; set {name} for this network"
            )


def _settings(ours: SubnetSpec, theirs: SubnetSpec) -> list[tuple[str, object, object]]:
    """Return settings with the values of two networks."""
    rows = [
        (f"space.{name}", getattr(ours, name), getattr(theirs, name))
        for name in ("image_size", "num_classes", "patch_size", "embed_dim", "depth")
    ]
    our_layer, their_layer = ours.active[0], theirs.active[0]
    rows += [
        (f"space.{name}", getattr(our_layer, name), getattr(their_layer, name))
        for name in ("num_heads", "qkv_dim", "mlp_dim")
    ]
    rows.append(("space.elastic.softmax_scale", our_layer.softmax_scale, their_layer.softmax_scale))
    return rows + [(f"space.elastic.{name}", getattr(ours, name), getattr(theirs, name)) for name in NETWORK]
