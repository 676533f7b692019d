"""Read text, JSON and YAML that people wrote or other programs damaged: one reader with limits.

Every error is a ``UserError`` with the file, the position and the expected content.
"""

from __future__ import annotations

import json
import os
import re
import stat
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from vitas_ds.errors import UserError, shorten

MAX_BYTES = 64 << 20  # of a text file; a recipe has 2 kB, and the JSON files of a large run 10 MB
MAX_RECIPE = 1 << 20  # bytes: the YAML parser takes a second per 100 kB
MAX_DEPTH, MAX_NODES = 64, 1_000_000  # nested containers; values, where an alias counts like its anchor's
MAX_DIGITS = 400  # of a whole number; float64 ends at 1e308


WRONG_CALL = re.compile(r"\(\) (takes|got|missing) | is not callable")  # messages of Python

_last: list[Path] = []  # the last file read


@contextmanager
def as_written() -> Iterator[None]:
    """Report content of another form than this program writes, for code that does nothing but read such files.

    A bug keeps its error if the content of a file cannot cause it: a wrong call, or an attribute that an object of this
    program does not have.

    Raises:
        UserError: The block raised an error of a wrong type, key or value; the message names the file read last, and
            the line of code.
    """
    try:
        yield
    except (TypeError, KeyError, IndexError, AttributeError, ValueError, ArithmeticError) as error:
        if not _is_of_content(error):
            raise
        path = _last[-1] if _last else "a file of the run"
        code = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {shorten(str(error), 100)}, {Path(code.filename).name} line {code.lineno}"
        raise UserError(f"{path}: not as this program writes it ({problem}); restore or remove it") from error


def _is_of_content(error: Exception) -> bool:
    """Return whether values of JSON can cause an error."""
    if isinstance(error, AttributeError):
        return isinstance(error.obj, dict | list | str | int | float | None)
    return not (isinstance(error, TypeError) and WRONG_CALL.search(str(error)))


def check_regular(path: str | Path) -> None:
    """Check that a path is no folder, device or pipe, before opening it: to open a pipe would wait for its writer.

    Raises:
        OSError: The path does not exist or cannot be examined.
        UserError: It is not a regular file, or a link to nothing.
    """
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise UserError(f"{path}: a link to {os.readlink(path)}, which does not exist") from None
        raise
    if not stat.S_ISREG(kind):
        raise UserError(f"{path}: is {'a folder' if stat.S_ISDIR(kind) else 'a device or pipe'}, not a file")


def open_binary(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        OSError: It cannot be opened.
        UserError: It is a device or pipe: to open a pipe would wait for its writer.
    """
    if not path.is_dir():  # open reports a folder
        check_regular(path)
    return open(path, "rb")


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: The file does not exist.
        UserError: It is not a regular file, not readable, or larger than ``limit`` bytes.
    """
    try:
        check_regular(path)
        size = os.stat(path).st_size
        if size > limit:
            raise UserError(f"{path}: has {size:,} bytes; at most {limit:,} are supported here")
        _last[:] = [path]
        with open(path, "rb") as file:
            return file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """Return the content of a UTF-8 file, without a byte order mark and with plain line ends.

    Raises:
        FileNotFoundError: The file does not exist.
        UserError: As ``read_bytes``; or it is not UTF-8.
    """
    content = read_bytes(path, limit)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{content[error.start]:02x}"
        raise UserError(f"{path}: line {line}: not UTF-8 ({byte}); save it as UTF-8") from None


def read_json(path: Path, kind: type = object) -> Any:
    """Return the content of a JSON file.

    Args:
        path: The file.
        kind: Expected type of the content: dict, list, or object for any.

    Raises:
        FileNotFoundError: The file does not exist.
        UserError: As ``read_text`` and ``parse_json``, or the content is of another type.
    """
    data = parse_json(read_text(path), str(path))
    if not isinstance(data, kind):
        expected = "an object {...}" if kind is dict else "an array [...]"
        raise UserError(f"{path}: not a JSON file of the expected form: expected {expected}")
    return data


def parse_json_line(text: str | bytes) -> Any:
    """Return the content of one line of JSON, for readers with their own error messages.

    Raises:
        ValueError: The line is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_json(text: str, where: str) -> Any:
    """Parse JSON. Refuse deep nesting and repeated keys.

    Raises:
        UserError: The text is not valid; the message starts with ``where``.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise UserError(f"{where}: key {next(k for k in keys if keys.count(k) > 1)[:60]!r} is given twice")
        return found

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not a JSON file ({position}: {error.msg})") from None
    except RecursionError:
        raise UserError(f"{where}: not a JSON file of this program: nested too deeply") from None
    except ValueError:  # Python limits the digits of a number
        raise UserError(f"{where}: not a JSON file of this program: a number has too many digits") from None
    _check_size(data, where)
    return data


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2, except that ``1_000`` is a number; keys are unique."""

    # without those of YAML 1.1, where 010 is 8, 1:30 is 90, and on is true
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML declares it so)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict; raise an error that names both lines of a duplicate key."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise yaml.MarkedYAMLError(problem=f"{key.value[:60]} is already set in line {lines[key.value]}",
                                           problem_mark=key.start_mark)  # fmt: skip
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_DIGITS = f"{{1,{MAX_DIGITS}}}"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", rf"[-+]?[0-9](?:[0-9_]{_DIGITS})?|0x[0-9a-fA-F]{_DIGITS}|0o[0-7]{_DIGITS}", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):  # fmt: skip
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = node.value.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    if text.startswith(("0x", "0o")):
        return int(text, 0)
    return int(text) if text.lstrip("+-").isdigit() else float(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


class _TextLoader(_Loader):
    """Leaves every scalar as it is written."""

    yaml_implicit_resolvers = {"<": _Loader.yaml_implicit_resolvers["<"]}  # noqa: RUF012


def parse_yaml(text: str, where: str, as_text: bool = False) -> Any:
    """Parse YAML; with ``as_text``, leave every scalar a string, as it is written.

    Raises:
        UserError: The text is not YAML, has a key twice, or is nested too deeply; the message starts with ``where``.
    """
    try:
        data = yaml.load(text, _TextLoader if as_text else _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {_describe(error, text)}") from None
    except RecursionError:
        raise UserError(f"{where}: not YAML of a recipe: nested too deeply") from None
    except (ValueError, TypeError, AttributeError) as error:  # of an explicit tag, as in !!int x
        raise UserError(f"{where}: not YAML ({str(error)[:100]})") from None
    _check_size(data, where)
    return data


def _describe(error: yaml.YAMLError, text: str) -> str:
    """Return position and problem of a YAML error."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return f"not YAML: {' '.join(str(error).split())[:150]}"
    mark = error.problem_mark
    position = f"line {mark.line + 1}, column {mark.column + 1}"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    if "\t" in line[: mark.column + 1]:
        return f"{position}: not YAML: indented with a tab; use spaces"
    kind = "" if "already set" in (error.problem or "") else "not YAML: "
    return f"{position}: {kind}{' '.join((error.problem or 'invalid').split())[:150]}"


def _check_size(data: Any, where: str) -> None:
    """Check depth and number of values, which aliases can multiply."""
    stack, nodes = [(data, 0)], 0
    while stack:
        value, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise UserError(f"{where}: {'nested too deeply' if depth > MAX_DEPTH else 'too many values'}")
        if isinstance(value, dict | list | tuple | set):
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            stack += [(item, depth + 1) for item in inner]
