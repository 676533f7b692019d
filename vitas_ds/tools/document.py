"""Generate parts of docs/: the configuration reference, and the estimated cost of reproducing published networks.

python -m vitas_ds.tools.document          writes the files
python -m vitas_ds.tools.document --check  returns exit status 1 if a file is out of date
"""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vitas_ds.arch import cost, genome
from vitas_ds.arch.published import published
from vitas_ds.config import Config, Section, format_value, json_schema
from vitas_ds.engine.peak import peak_flops
from vitas_ds.recipe import load
from vitas_ds.reports.svg import short
from vitas_ds.run.files import write_text

DOCS = Path(__file__).parents[2] / "docs"
RECIPE_SCHEMA = Path(__file__).parents[1] / "recipes" / "schema.json"  # the first line of each recipe names it
INTRODUCTION = """# Configuration

All keys of a recipe. This page is generated from [`vitas_ds/config`](../vitas_ds/config) and
[`vitas_ds/arch/space.py`](../vitas_ds/arch/space.py) by `python -m vitas_ds.tools.document`. Set a key in the recipe
(YAML) or on the command line as `section.key=value`, which overrides the recipe. Keys that are not set have their
defaults. See [the manual](manual.md) for how to use them.
"""
BOUNDS = {"gt": "> {}", "ge": ">= {}", "lt": "< {}", "le": "<= {}"}  # attributes of pydantic's field metadata
TYPE_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}


def configuration() -> str:
    """Return ``docs/configuration.md``."""
    parts: list[str] = [INTRODUCTION]
    documented: set[type] = set()
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, BaseModel)
        base = section.__bases__[0]
        inherited = getattr(base, "model_fields", {})
        own = {key: value for key, value in section.model_fields.items() if key not in inherited}
        nested = _sections(own)
        parts.append(_section_part(name, section, {key: field for key, field in own.items() if key not in nested}))
        parts += [_section_part(f"{name}.{key}", inner, inner.model_fields) for key, inner in nested.items()]
        if base not in (Section, BaseModel) and base not in documented:
            documented.add(base)
            users = [n for n, f in Config.model_fields.items() if isinstance(f.annotation, type)
                     and issubclass(f.annotation, base)]  # fmt: skip
            parts += _shared_parts(base, users)
    return "\n".join(parts)


def _shared_parts(base: type[BaseModel], users: list[str]) -> Iterator[str]:
    """Yield the keys that several sections inherit, then the nested sections."""
    nested = _sections(base.model_fields)
    plain = {key: field for key, field in base.model_fields.items() if key not in nested}
    yield _section_part(" and ".join(users), base, plain)
    for key, section in nested.items():
        yield _section_part(" and ".join(f"{user}.{key}" for user in users), section, section.model_fields)


def _sections(fields: dict[str, FieldInfo]) -> dict[str, type[BaseModel]]:
    """Return the nested sections among the fields."""
    types_of = {key: field.annotation for key, field in fields.items()}
    return {key: found for key, found in types_of.items() if isinstance(found, type) and issubclass(found, BaseModel)}


def _section_part(name: str, section: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    text = " ".join((section.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    rows = [f"## {name}", "", text, "", "| key | type | default | |", "|---|---|---|---|"]
    for key, field in fields.items():
        assert field.description, f"{key}: a field must have a description"
        description = field.description.replace("|", "\\|")
        rows.append(f"| `{key}` | {_type_and_bounds(field)} | `{format_value(field.default)}` | {description} |")
    return "\n".join(rows) + "\n"


def _type_and_bounds(field: FieldInfo) -> str:
    bounds = [
        text.format(f"{value:g}") for entry in field.metadata for name, text in BOUNDS.items()
        if (value := getattr(entry, name, None)) is not None
    ]  # fmt: skip
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " \\| ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(arg) for arg in args)
    if origin is Annotated:
        return _type(args[0])
    if origin is tuple:
        items = [_type(arg) for arg in args if arg is not Ellipsis]
        return f"list of {items[0]}" if Ellipsis in args else f"[{', '.join(items)}]"
    return TYPE_NAMES[annotation]


BEGIN, END = "<!-- generated by python -m vitas_ds.tools.document -->", "<!-- end of the generated part -->"
TRAIN_IMAGES, SEARCH_IMAGES = 1_281_167, 10_000  # ImageNet-1k train, and the images held out of it for the search
FLOPS_PER_SECOND = 20e12  # assumed for one GPU
CARDS, NUMBERS = ("A100", "H100"), (1, 8, 16)
UTILIZATION = 0.1  # of the peak in bf16; assumed
RECIPES: dict[str, tuple[str, list[str]]] = {  # network -> recipe and overrides, as in the commands of reproduce.md
    "vitas-a": ("vitas_1g_bcnet", ["supernet.macs=[0.77e9, 0.87e9]"]), "vitas-b": ("vitas_1g_bcnet", []),
    "vitas-c": ("vitas_cell", []), "vitas-e": ("vitas_1g_bcnet", ["supernet.macs=[2.4e9, 2.7e9]"]),
    "vitas-f": ("vitas_5g", []), "deit-ti": ("retrain_deit", []), "deit-s": ("retrain_deit", ["retrain.spec=deit-s"]),
}  # fmt: skip


def costs() -> str:
    """Return the table of ``docs/reproduce.md``: estimated GPU hours of each stage, and reported accuracies."""
    rows = [
        "| network | recipe | MACs | supernet | search | retrain | total GPU hours (estimate) | top-1 (paper) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (recipe, _) in RECIPES.items():
        net, hours = published(name), stage_hours(name)
        macs = cost.spec_macs(net.spec)
        cells = [f"{value:,.0f}" if value >= 1 else "-" if value == 0 else f"{value:.1f}" for value in hours]
        total = f"**{sum(hours):,.0f}**"
        rows.append(f"| {name} | `{recipe}` | {short(macs)} | {' | '.join(cells)} | {total} | {net.top1} % |")
    return "\n".join(rows)


def stage_hours(name: str) -> list[float]:
    """Return the GPU hours of supernet, search and retraining for a published network."""
    recipe, overrides = RECIPES[name]
    cfg, macs = load(recipe, overrides), cost.spec_macs(published(name).spec)
    searched = cfg.retrain.spec.startswith("search")
    hours = [supernet_hours(cfg), search_hours(cfg, macs)] if searched else [0.0, 0.0]
    return [*hours, training_hours(macs, TRAIN_IMAGES, cfg.retrain.epochs, 1)]


def cards() -> str:
    """Return the table of ``docs/imagenet.md``: hours of a whole run by kind and number of cards."""
    columns = [(card, number) for card in CARDS for number in NUMBERS]
    rows = [
        f"| network | recipe | operations | {' | '.join(f'{number} x {card}' for card, number in columns)} | "
        "top-1 (paper) |", "|---" * (4 + len(columns)) + "|",
    ]  # fmt: skip
    for name, (recipe, _) in RECIPES.items():
        operations = sum(stage_hours(name)) * FLOPS_PER_SECOND * 3600
        hours = [operations / ((peak_flops(card) or 0) * UTILIZATION * number) / 3600 for card, number in columns]
        cells = " | ".join(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in hours)
        rows.append(f"| {name} | `{recipe}` | {operations / 1e18:.1f}e18 | {cells} | {published(name).top1} % |")
    return "\n".join(rows)


def training_hours(macs: float, images: int, epochs: int, sides: int) -> float:
    """Return GPU hours: a step costs three forward passes, and a multiply-accumulate is two operations."""
    return 3 * 2 * macs * images * epochs * sides / FLOPS_PER_SECOND / 3600


def supernet_hours(cfg: Config) -> float:
    """Return GPU hours of subnets that cost the middle of ``supernet.macs``, or the mean of random subnets."""
    if cfg.supernet.macs:
        macs = sum(cfg.supernet.macs) / 2
    else:
        nets = genome.sample(cfg.space, np.random.default_rng(0), 4000)
        macs = float(cost.macs(genome.width_table(cfg.space, nets)).mean())
    return training_hours(macs, TRAIN_IMAGES - SEARCH_IMAGES, cfg.supernet.epochs, sides(cfg))


def search_hours(cfg: Config, macs: float) -> float:
    """Return GPU hours of the forward passes of all candidates over the search images."""
    return 2 * macs * cfg.search.candidates * SEARCH_IMAGES * sides(cfg) / FLOPS_PER_SECOND / 3600


def sides(cfg: Config) -> int:
    """Return the number of sides that an image passes through."""
    return 2 if cfg.supernet.sharing == "bilateral" else 1


def files() -> dict[Path, str]:
    """Return the up-to-date text of every generated file."""
    reproduce, imagenet = DOCS / "reproduce.md", DOCS / "imagenet.md"
    return {
        DOCS / "configuration.md": configuration(),
        RECIPE_SCHEMA: json_schema(),
        reproduce: with_generated(reproduce, costs()),
        imagenet: with_generated(imagenet, cards()),
    }


def with_generated(page: Path, table: str) -> str:
    """Return the text of a page with another generated part."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Write the files, or list the outdated ones."""
    parser = argparse.ArgumentParser(prog="python -m vitas_ds.tools.document", description="generate parts of docs/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file is out of date")
    args = parser.parse_args(argv)
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        print(f"{path}: {'out of date; run python -m vitas_ds.tools.document' if args.check else 'written'}")
        if not args.check:
            write_text(path, text)
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
