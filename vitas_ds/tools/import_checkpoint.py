"""``vitas import``: convert a checkpoint of the first release to an exported model."""

from __future__ import annotations

import argparse

from vitas_ds.arch.published import published
from vitas_ds.errors import UserError
from vitas_ds.export.first_release import import_first_release
from vitas_ds.export.folder import Preprocess, write_model


def run(args: argparse.Namespace) -> int:
    """Convert ``args.checkpoint`` of ``args.net`` to the folder ``args.out``, which must not exist."""
    if args.out.exists():
        raise UserError(f"--out {args.out}: exists already; give another folder")
    model = import_first_release(args.net, args.checkpoint)
    paper = published(args.net)
    facts: dict[str, object] = {"weights": f"first release of ViTAS, {args.net}"}
    facts["accuracy stated by the paper"] = f"{paper.top1} %"
    write_model(model, args.out, Preprocess(), args.net, facts, license="unknown")  # the weights are not ours
    print(f"{args.out}: {args.net}, {sum(p.numel() for p in model.parameters()):,} parameters")
    return 0
