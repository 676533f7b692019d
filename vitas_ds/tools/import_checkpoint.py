"""``vitas import``: convert a checkpoint of the first release, or weights of timm, to an exported model."""

from __future__ import annotations

import argparse

from vitas_ds.arch.published import published
from vitas_ds.errors import UserError
from vitas_ds.export.first_release import import_first_release
from vitas_ds.export.folder import Facts, Preprocess, write_model
from vitas_ds.models.vit import VisionTransformer

TIMM = "timm:"


def run(args: argparse.Namespace) -> int:
    """Convert ``args.checkpoint`` of ``args.net`` to the folder ``args.out``."""
    _check(args)
    model = _import_timm(args) if args.net.startswith(TIMM) else _import_first_release(args)
    print(f"{args.out}: {args.net}, {sum(p.numel() for p in model.parameters()):,} parameters")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Check which options belong together."""
    options = {"--classes": args.classes, "--image-size": args.image_size, "--download": args.download or None}
    for name, value in options.items():
        if value is not None and not args.net.startswith(TIMM):
            raise UserError(f"{name}: only for networks of timm; --net {args.net} is one of the first release")
        if value == 0:
            raise UserError(f"{name} 0: must be 1 or more")
    if (args.checkpoint is None) != args.download:
        reason = "give a file, or --download" if args.checkpoint is None else "excludes --download"
        raise UserError(f"--checkpoint: {reason}")


def _import_first_release(args: argparse.Namespace) -> VisionTransformer:
    model = import_first_release(args.net, args.checkpoint)
    paper = published(args.net)
    facts: Facts = {
        "weights": f"first release of ViTAS, {args.net}", "accuracy stated by the paper": f"{paper.top1} %",
    }  # fmt: skip
    write_model(model, args.out, Preprocess(), args.net, facts, license="unknown")  # the weights are not ours
    return model


def _import_timm(args: argparse.Namespace) -> VisionTransformer:
    from vitas_ds.export.from_timm import import_timm

    name = args.net.removeprefix(TIMM)
    found = import_timm(name, args.checkpoint, args.classes, args.image_size)
    write_model(found.model, args.out, found.preprocess, name, found.facts, license=found.license)
    return found.model
