"""The reader of text, JSON and YAML: limits, positions, and scalars as they are written.

Reference: values by hand, and Python's json.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitas_ds.errors import UserError, shorten
from vitas_ds.errors.paths import clean_path
from vitas_ds.errors.reading import as_written, open_binary, parse_json, parse_yaml, read_json, read_text
from vitas_ds.run.files import file_digest


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        ("1.10", 1.1, "1.10"), ("007", 7, "007"), ("010", 10, "010"), ("on", "on", "on"), ("yes", "yes", "yes"),
        ("1e3", 1000.0, "1e3"), ("1E-3", 0.001, "1E-3"), ("1_000", 1000, "1_000"), ("0x10", 16, "0x10"),
        ("1:30", "1:30", "1:30"), ("2024-01-01", "2024-01-01", "2024-01-01"), ("true", True, "true"),
        ("null", None, "null"), ("~", None, "~"), ("-.5", -0.5, "-.5"), (".inf", float("inf"), ".inf"),
        ("'1'", "1", "1"), ("1.2.3", "1.2.3", "1.2.3"), ("+5", 5, "+5"), ("é", "é", "é"),
    ],
)  # fmt: skip
def test_scalars(text, value, written):
    found = parse_yaml(f"a: {text}", "x")["a"]
    assert found == value and type(found) is type(value)
    assert parse_yaml(f"a: {text}", "x", as_text=True) == {"a": written}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x: line 3, column 1: a is already set in line 1"),
        ("a: {b: 1, b: 2}", "x: line 1, column 11: b is already set in line 1"),
        ("a:\n\tb: 1", "x: line 2, column 1: not YAML: indented with a tab; use spaces"),
        ("a: &a [*a]", "x: nested too deeply"),
        ("[" * 5000, "x: not YAML of a recipe: nested too deeply"),
        ("a: *b", "x: line 1, column 4: not YAML: found undefined alias 'b'"),
        ("a: [1", "x: line 1, column 6: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: !!int x", "x: not YAML"),
        ("a: !!python/name:os.system", "x: line 1, column 4: not YAML: could not determine a constructor"),
    ],
)
def test_yaml_errors_name_the_position(text, message):
    with pytest.raises(UserError) as error:
        parse_yaml(text, "x")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_anchors_and_merge_keys_work_and_bombs_do_not():
    assert parse_yaml("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", "x")["b"] == {"p": 1, "q": 3}
    bomb = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    with pytest.raises(UserError, match="too many values"):
        parse_yaml(bomb, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', "key 'a' is given twice"),
        (b'{"a":', "not a JSON file (line 1, column 6"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "a number has too many digits"),
        (b"\xff\xfe", "line 1: not UTF-8 (byte 0xff); save it as UTF-8"),
        (b'{"a":\n"\xff"}', "line 2: not UTF-8"),
        (b"[1]", "expected an object {...}"),
    ],
)
def test_json_errors_name_file_and_position(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path, dict)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xc3\xa9\r\n")
    assert read_text(path) == "a: 1\nb: é\n"
    assert parse_json('{"a": "é"}', "x") == {"a": "é"}


def test_other_kinds_of_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, message in (("pipe", "a device or pipe"), (".", "a folder"), ("loop", "cannot be read"),
                          ("large", "has 11 bytes; at most 10")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_text(tmp_path / name, 10)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")
    for read in (open_binary, file_digest):  # to open a pipe would wait for its writer
        with pytest.raises(UserError, match="a device or pipe"):
            read(tmp_path / "pipe")
        with pytest.raises(OSError):
            read(tmp_path / "none")


def test_a_link_to_nothing_is_not_a_missing_file(tmp_path):
    (tmp_path / "a.json").symlink_to("/no/where")
    with pytest.raises(UserError, match=r"a\.json: a link to /no/where, which does not exist"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_messages_are_short_printable_and_keep_both_ends():
    text = shorten("/data/file.json: " + "x" * 100_000 + "\n\udcff\x1b; fix it")
    assert 298 < len(text) <= 300
    assert text.startswith("/data/file.json: ") and text.endswith("\\udcff\\x1b; fix it")


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/a b/", "/home/me/a b"), ("$HOME/a", "/home/me/a"), ("${HOME}", "/home/me"), ("/", "/"), ("a//", "a"),
        ("scratch", "scratch"), ("", ""), ("search:macs<1.3G", "search:macs<1.3G"), ("x" * 250, "x" * 250),
    ],
)  # fmt: skip
def test_paths(monkeypatch, given, path):
    monkeypatch.setenv("HOME", "/home/me")
    assert clean_path(given) == path


@pytest.mark.parametrize(
    ("given", "message"),
    [("$NOPE/a", r"variable \$NOPE is not set"), ("x" * 256, "at most 255 bytes"), ("é" * 128, "given: 256"),
     ("a/" * 3000, "a path 4095"), ("a\nb", "control characters"), ("a\0b", "control characters")],
)  # fmt: skip
def test_impossible_paths(given, message):
    with pytest.raises(ValueError, match=message):
        clean_path(given)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x["loss"], lambda x: x.get("a").get("b"), lambda x: x["list"]["a"], lambda x: x["list"][3],
        lambda x: x["a"] + 1, lambda x: float(x["a"]), lambda x: 1 / x["zero"], lambda x: x["zero"].items(),
    ],
)  # fmt: skip
def test_content_of_another_form_names_the_file_and_the_line(tmp_path: Path, read: Callable[[Any], object]) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": "text", "list": [1], "zero": 0}')
    with pytest.raises(UserError) as error, as_written():
        read(read_json(path))
    text = str(error.value)
    assert text.startswith(f"{path}: not as this program writes it (") and "\n" not in text
    assert ", test_reading.py line " in text and text.endswith("); restore or remove it")


@pytest.mark.parametrize(
    ("bug", "kind"),
    [
        (clean_path, TypeError), (lambda: clean_path("a", 1), TypeError), (lambda: os.sep("a"), TypeError),
        (lambda: clean_path(way="a"), TypeError), (lambda: os.no_such_function, AttributeError),
        (lambda: Path("a").no_such_attribute, AttributeError),
    ],
)  # fmt: skip
def test_a_bug_is_not_an_error_in_a_file(bug: Callable[[], object], kind: type[Exception]) -> None:
    with pytest.raises(kind), as_written():
        bug()
