"""Read the file of an offline W&B run."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(folder: Path) -> Iterator[Any]:
    """Yield every record of an offline run: protocol buffers in blocks of 32 KiB, as in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("run-*.wandb")
    data, at, part = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (room := 32768 - at % 32768) < 7:  # padding
            at += room
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        part += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a complete record, or its last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the logged rows."""
    rows = [record.history.item for record in records(folder) if record.WhichOneof("record_type") == "history"]
    return [{i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in row} for row in rows]


def table_of(folder: Path, name: str) -> dict[str, Any]:
    """Return a table that was logged once: its columns and rows."""
    (path,) = {row[f"{name}.path"] for row in history(folder) if f"{name}.path" in row}
    table: dict[str, Any] = json.loads((folder / "files" / path).read_text())
    return table


def run_of(folder: Path) -> Any:
    """Return the record of the run itself: id, group, job type, name."""
    return next(record.run for record in records(folder) if record.WhichOneof("record_type") == "run")


def artifacts(folder: Path) -> list[tuple[str, str]]:
    """Return (kind, name) of each artifact."""
    kept = [r.request.log_artifact.artifact for r in records(folder) if r.request.HasField("log_artifact")]
    kept += [record.artifact for record in records(folder) if record.WhichOneof("record_type") == "artifact"]
    return [(artifact.type, artifact.name) for artifact in kept]
