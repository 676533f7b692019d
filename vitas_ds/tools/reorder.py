"""``vitas reorder``: sort the units of an exported model by importance, without changing its outputs."""

from __future__ import annotations

import argparse

from vitas_ds.elastic.order import REORDERED, by_importance, read_order, write_order
from vitas_ds.elastic.reorder import reorder
from vitas_ds.elastic.scores import check_scores, read_scores
from vitas_ds.export.card import model_card, read_license
from vitas_ds.export.folder import (
    Facts,
    atomic_folder,
    read_facts,
    read_model,
    read_preprocess,
    weights_digest,
    write_model_files,
)  # fmt: skip
from vitas_ds.run.files import write_text


def run(args: argparse.Namespace) -> int:
    """Run ``vitas reorder MODEL --importance FILE.json --out DIR``."""
    model, scores = read_model(args.model), read_scores(args.importance)
    check_scores(args.importance, scores, model.spec, weights_digest(args.model) or "")
    order = by_importance(scores, model.spec)
    reorder(model, order)
    before = read_order(args.model, model.spec)
    facts: Facts = read_facts(args.model) | {REORDERED: f"sorted by importance on {scores.images} images"}
    with atomic_folder(args.out) as aside:
        write_model_files(model, aside, read_preprocess(args.model), facts)
        write_order(aside, order if before is None else order.after(before))
        write_text(aside / "README.md", model_card(model.spec, args.out.name, facts, license=read_license(args.model)))
    print(f"{args.out}: the units of {args.model}, most important first")
    return 0
