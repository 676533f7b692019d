"""Lines of measured latencies: the format of ``runs/latency.jsonl`` and of ``search.latency_table``.

Each line is a JSON object: ``spec`` as in ``spec.json``, ``seconds`` of a batch, optionally ``spread`` and ``runs``,
and ``setting``: everything except the network on which the seconds depend. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitas_ds.arch.spec import SubnetSpec, spec_from_dict
from vitas_ds.errors import UserError, shorten
from vitas_ds.errors.reading import parse_json_line, read_bytes
from vitas_ds.run.files import to_json

Setting = dict[str, Any]
REQUIRED = ("device", "runtime", "batch_size", "precision")  # keys of every setting
START = b'{"spec": '  # of every line that this program writes


@dataclass(frozen=True)
class Latency:
    """Measured time of one batch.

    Attributes:
        seconds: Median of the runs, without outliers.
        spread: Interquartile range of the runs in seconds; None if unknown.
        runs: Number of runs; None if unknown.
    """

    seconds: float
    spread: float | None = None
    runs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the known fields."""
        fields = {"seconds": self.seconds, "spread": self.spread, "runs": self.runs}
        return {name: value for name, value in fields.items() if value is not None}

    def describe(self) -> str:
        """Return the latency in milliseconds."""
        spread = "" if self.spread is None else f" (spread {self.spread * 1e3:.2g} ms)"
        return f"{self.seconds * 1e3:.4g} ms{spread}"


@dataclass(frozen=True)
class Line:
    """A measured network."""

    spec: SubnetSpec
    latency: Latency
    setting: Setting


def format_line(line: Line) -> str:
    """Return one line of JSON."""
    return to_json({"spec": line.spec.to_dict(), **line.latency.to_dict(), "setting": line.setting})


def parse_line(text: str | bytes) -> Line:
    """Read one line.

    Raises:
        UserError: The text is not a measured latency. The message has no location.
    """
    try:
        row = parse_json_line(text)
        setting = dict(row["setting"])
        missing = [name for name in REQUIRED if name not in setting]
        if missing:
            raise UserError(f"setting has no {missing[0]}")
        _check_kinds(setting)
        spread, runs = row.get("spread"), row.get("runs")
        latency = Latency(float(row["seconds"]), spread and float(spread), runs and int(runs))
        spec = row["spec"]
    except KeyError as error:
        raise UserError(f"no {error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    if not 0 < latency.seconds < float("inf"):
        raise UserError(f"seconds must be above 0 (given: {latency.seconds})")
    return Line(spec_from_dict(spec).canonical(), latency, setting)


def _check_kinds(setting: Setting) -> None:
    versions = setting.get("versions")
    checks = {name: (isinstance(setting[name], str), "text") for name in ("device", "runtime", "precision")}
    checks["batch_size"] = type(setting["batch_size"]) is int, "a whole number"
    checks["versions"] = versions is None or isinstance(versions, dict), "an object of names and versions"
    for name, (right, what) in checks.items():
        if not right:
            raise UserError(f"setting.{name}: must be {what} (given: {shorten(repr(setting[name]), 60)})")


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the valid lines of a file; none if it does not exist. A killed writer leaves an invalid one."""
    for text in read_bytes(path).splitlines() if path.exists() else ():
        try:
            yield parse_line(text)
        except UserError:
            continue


def check_lines(path: Path) -> None:
    """Check that a file, if it exists, has measured latencies only; a line may be incomplete: its writer was killed.

    Raises:
        UserError: A line is something else, or the file cannot be read.
    """
    for number, text in enumerate(read_bytes(path).splitlines() if path.exists() else (), 1):
        try:
            parse_line(text)
        except UserError as error:
            if not START.startswith(text[: len(START)]):
                raise UserError(f"{path}: line {number}: not a measured latency ({error}); give a new file") from None


def describe_setting(setting: Setting) -> str:
    """Return a setting as part of a sentence."""
    threads = setting.get("threads")
    parts = [f"{setting['device']}", f"{setting['runtime']}", f"{setting['precision']}"]
    if threads:
        parts.append(f"{threads} thread{'s' * (threads != 1)}")
    if "batch_size" in setting:
        parts.append(f"batch size {setting['batch_size']}")
    return ", ".join(parts)
