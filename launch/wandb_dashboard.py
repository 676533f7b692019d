"""Save a dashboard of all stages as a view of the W&B project.

    python launch/wandb_dashboard.py --entity ME [--project vitas_ds] [--name NAME] [--dry-run]

Needs `pip install wandb-workspaces` and WANDB_API_KEY. --dry-run only prints the sections and needs neither.
docs/manual.md describes the metrics.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

Panels = list[tuple[str, tuple[str, ...]]]  # title and metrics, one line per metric over the steps of its stage


def training(stage: str) -> Panels:
    """Return the panels of a training stage."""
    titles = {
        "Loss": "loss", "Learning rate": "lr", "Gradient norm": "grad_norm", "Images per second": "images_per_s",
        "Fraction of time spent waiting for data": "data_wait", "Peak memory, GB": "memory_gb",
    }  # fmt: skip
    return [(title, (f"{stage}/{name}",)) for title, name in titles.items()]


SECTIONS: dict[str, Panels] = {
    "Training of the supernet": training("train-supernet"),
    "Subnets trained by the supernet": [
        ("MACs", ("train-supernet/net_macs",)),
        ("Layers", ("train-supernet/net_depth",)),
        ("Embedding width", ("train-supernet/net_embed_dim",)),
    ],
    "Search": [
        ("Score: best so far, mean of the generation", ("search/best", "search/mean")),
        ("Hypervolume", ("search/hypervolume",)),
        ("Seconds per generation", ("search/seconds",)),
    ],
    "Retraining": training("retrain"),
    "Evaluation": [("Top-1 and top-5", ("evaluate/top1", "evaluate/top5"))],
}
PICTURES: dict[str, tuple[str, ...]] = {  # sections that also show image files
    "Training of the supernet": ("train-supernet/images",),
    "Search": ("search/front", "search/progress", "search/survivors"),
    "Retraining": ("retrain/images",),
    "Evaluation": ("evaluate/images",),
}


def workspace(entity: str, project: str, name: str) -> Any:
    """Return the view as a W&B object, without sending anything."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def panels(section: str) -> list[Any]:
        lines = [
            wr.LinePlot(title=title, x=f"{metrics[0].partition('/')[0]}/step", y=list(metrics))
            for title, metrics in SECTIONS[section]
        ]
        return [*lines, *(wr.MediaBrowser(media_keys=[key]) for key in PICTURES.get(section, ()))]

    sections = [ws.Section(name=section, panels=panels(section), is_open=True) for section in SECTIONS]
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections)


def main(argv: list[str] | None = None) -> int:
    """Save the view. The exit status is 2, with a one-line message, if that fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--entity", default="", help="W&B user or team")
    parser.add_argument("--project", default="vitas_ds", help="W&B project, same as tracking.project (vitas_ds)")
    parser.add_argument("--name", default="ViTAS", help="name of the view (ViTAS)")
    parser.add_argument("--dry-run", action="store_true", help="print the sections and exit")
    args = parser.parse_args(argv)
    if args.dry_run:
        print(json.dumps(SECTIONS, indent=2))
        return 0
    try:
        if not args.entity:
            raise ValueError("--entity: name the W&B user or team that owns the project")
        print(workspace(args.entity, args.project, args.name).save().url)
    except ImportError as error:
        print(f"wandb_dashboard.py: {error}; pip install wandb-workspaces", file=sys.stderr)
        return 2
    except Exception as error:  # W&B raises many types: no key, no network, no such project
        print(f"wandb_dashboard.py: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
