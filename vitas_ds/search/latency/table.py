"""Read a user's latency table (``search.latency_table``), measured on this machine or on another one.

The format is that of ``lines.py``. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.arch import genome
from vitas_ds.arch.space import SearchSpace
from vitas_ds.arch.spec import SubnetSpec
from vitas_ds.config import Search
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import read_bytes
from vitas_ds.search.feasible.budget import Budget, compute_costs, violation
from vitas_ds.search.latency.limits import MIN_NETWORKS
from vitas_ds.search.latency.lines import Line, Setting, parse_line

FIELDS = {  # settings of a line, and the fields of the recipe that select lines by them
    "device": "search.latency_device", "runtime": "search.latency_runtime", "batch_size": "search.latency_batch_size",
    "precision": "search.latency_precision",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The lines of a table that fit a recipe.

    Attributes:
        path: The file.
        digest: SHA-256 of the file.
        setting: The setting that all lines have.
        lines: The networks of the space within the budget.
    """

    path: Path
    digest: str
    setting: Setting
    lines: list[Line]


def read_table(search: Search, space: SearchSpace, budget: Budget) -> Table:
    """Read ``search.latency_table`` and check that it fits the recipe.

    Args:
        search: The section of the recipe.
        space: The search space.
        budget: Only networks within this budget count. It must not bound the latency.

    Raises:
        UserError: The file has an invalid line, was measured with another device, runtime, batch size or precision than
            the recipe names or with several ones, or has fewer than 12 networks of the space within the budget.
    """
    path = Path(search.latency_table or "")
    try:
        data = read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(
            f"search.latency_table: {path}: {error.strerror}; vitas latency RECIPE --out {path} writes a table"
        ) from None
    lines = _select(search, path, _parse(path, data))
    setting = _only_setting(path, lines)
    networks = list({line.spec.key(): line for line in lines}.values())
    inside = [line for line in networks if _is_inside(line.spec, space, budget)]
    if len(inside) < MIN_NETWORKS:
        raise UserError(
            f"{path}: {len(inside)} of its {len(networks)} networks are in the space and the budget of the recipe, a "
            f"search needs at least {MIN_NETWORKS}; measure more with: vitas latency RECIPE --out {path}"
        )
    return Table(path, hashlib.sha256(data).hexdigest(), setting, inside)


def check_versions(table: Table, devices: set[str], installed: Mapping[str, str | None]) -> None:
    """Check the versions of a table measured on a device of this machine.

    Raises:
        UserError: A library that this machine has is installed in another version.
    """
    if table.setting["device"] not in devices:
        return
    for name, version in (table.setting.get("versions") or {}).items():
        here = installed.get(name)
        if here is not None and here != version:
            raise UserError(
                f"{table.path}: measured on this device with {name} {version}, but {here} is installed; measure again "
                f"with: vitas latency RECIPE --out FILE"
            )


def _parse(path: Path, data: bytes) -> list[Line]:
    """Parse the lines. The last one may be incomplete: its writer was killed."""
    lines, texts = [], data.splitlines()
    for number, text in enumerate(texts, 1):
        try:
            lines.append(parse_line(text))
        except UserError as error:
            if number == len(texts) and not data.endswith(b"\n"):
                break
            raise UserError(f"{path}: line {number}: not a measured latency ({error})") from None
    return lines


def _select(search: Search, path: Path, lines: list[Line]) -> list[Line]:
    """Return the lines with the device, runtime, batch size and precision of the recipe."""
    wanted: dict[str, Any] = {
        "device": search.latency_device,
        "runtime": None if search.latency_runtime == "auto" else search.latency_runtime,
        "batch_size": search.latency_batch_size,
        "precision": search.latency_precision,
    }
    for name, value in wanted.items():
        selected = [line for line in lines if value is None or line.setting[name] == value]
        if lines and not selected:
            raise UserError(
                f"{path}: no latencies with {name} {value!r} ({FIELDS[name]}); the table has {_values(name, lines)}"
            )
        lines = selected
    return lines


def _only_setting(path: Path, lines: list[Line]) -> Setting:
    """Return the setting of all lines."""
    settings = list({json.dumps(line.setting, sort_keys=True): line.setting for line in lines}.values())
    if not settings:
        raise UserError(f"{path}: no latencies; vitas latency RECIPE --out {path} writes a table")
    if len(settings) > 1:
        first, second = settings[:2]
        name = min(
            (name for name in first | second if first.get(name) != second.get(name)),
            key=lambda name: (name not in FIELDS, name),
        )
        fix = f"set {FIELDS[name]}" if name in FIELDS else "keep the lines of one setting"
        raise UserError(
            f"{path}: several settings fit the recipe, which differ in {name}: {_values(name, lines)}; {fix}"
        )
    return settings[0]


def _values(name: str, lines: list[Line]) -> str:
    return ", ".join(sorted({json.dumps(line.setting.get(name), sort_keys=True) for line in lines}))


def _is_inside(spec: SubnetSpec, space: SearchSpace, budget: Budget) -> bool:
    try:
        row = genome.encode_all(space, [spec])
    except UserError:
        return False
    return not budget or bool(violation(budget, compute_costs(space, row, tuple(budget)))[0] == 0)
