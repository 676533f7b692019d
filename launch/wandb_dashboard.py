"""Save a dashboard of all stages as a view of the W&B project.

    python launch/wandb_dashboard.py --entity ME [--project vitas_ds] [--name NAME] [--dry-run]

Needs `pip install wandb-workspaces` and WANDB_API_KEY. --dry-run only prints the sections and needs neither. Runs are
grouped by their name. docs/manual.md describes the metrics.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

# section -> panels: (title, metrics), one line per metric over the steps of the stage
SECTIONS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "Training (train-supernet, retrain)": [
        ("Loss", ("loss",)),
        ("Learning rate", ("lr",)),
        ("Gradient norm", ("grad_norm",)),
        ("Images per second", ("images_per_s",)),
        ("Fraction of time spent waiting for data", ("data_wait",)),
        ("Peak memory, GB", ("memory_gb",)),
    ],
    "Subnets trained by the supernet": [
        ("MACs", ("net_macs",)),
        ("Layers", ("net_depth",)),
        ("Embedding width", ("net_embed_dim",)),
    ],
    "Search": [
        ("Score: best so far, mean of the generation", ("best", "mean")),
        ("Hypervolume", ("hypervolume",)),
        ("Seconds per generation", ("seconds",)),
    ],
    "Evaluation": [("Top-1 and top-5", ("top1", "top5"))],
}
PICTURES: dict[str, tuple[str, ...]] = {  # sections that also show image files
    "Training (train-supernet, retrain)": ("images",),
    "Search": ("search/front", "search/progress", "search/survivors"),
}


def workspace(entity: str, project: str, name: str) -> Any:
    """Return the view as a W&B object, without sending anything."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def panels(section: str) -> list[Any]:
        lines = [wr.LinePlot(title=title, x="step", y=list(metrics)) for title, metrics in SECTIONS[section]]
        return [*lines, *(wr.MediaBrowser(media_keys=[key]) for key in PICTURES.get(section, ()))]

    sections = [ws.Section(name=section, panels=panels(section), is_open=True) for section in SECTIONS]
    runs = ws.RunsetSettings(groupby=[ws.Metric("Group")])
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=runs)


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
