"""Parse the YAML of a configuration: numbers become numbers, and text fields stay as written."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.errors.reading import parse_yaml

FIRST, LAST = "# Settings of the latest start. The last line shows that the file is complete.", "# End of the settings."


def framed(text: str) -> str:
    """Return the content of a ``config.yaml``: a missing end makes no setting invalid, but gives it its default."""
    return f"{FIRST}\n{text}{LAST}\n"


def parse_config(text: str, where: str) -> Any:
    """Return the content of a recipe or a ``config.yaml``; a text field is as written: ``1.10``, ``007`` or ``on``.

    Raises:
        UserError: The text is not YAML, has a key twice, or lacks the end of a ``config.yaml``.
    """
    if text.startswith(FIRST) and not text.rstrip().endswith(LAST):
        raise UserError(f"{where}: cut off, the last line is missing; copy the file again, or restore it")
    data = parse_yaml(text, where)
    if isinstance(data, dict):
        _restore_text(data, parse_yaml(text, where, as_text=True), Config)
    return data


def parse_value(text: str, keys: list[str], where: str) -> Any:
    """Return the value of an override for the field ``keys``.

    Raises:
        UserError: The value is not YAML, and the field is not text.
    """
    annotation = _annotation(keys)
    if _is_text(annotation) and text.strip() and text[0] not in "'\"":
        optional = type(None) in get_args(annotation)
        return None if text == "null" or (optional and text == "~") else text
    try:
        value = parse_yaml(text, "value")
    except UserError as error:
        raise UserError(f"{where}: the value is not YAML ({str(error).removeprefix('value: ')})") from None
    try:
        return float(value) if isinstance(value, str) and not _is_text(annotation) else value  # inf
    except ValueError:
        return value


def _restore_text(data: dict[str, Any], texts: Any, model: type[BaseModel]) -> None:
    """Replace the values of text fields in ``data`` by those in ``texts``, except null."""
    for name, field in model.model_fields.items():
        value, text = data.get(name), texts.get(name) if isinstance(texts, dict) else None
        if isinstance(value, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            _restore_text(value, text, field.annotation)
        elif value is not None and isinstance(text, str) and _is_text(field.annotation):
            data[name] = text


def _annotation(keys: list[str]) -> Any:
    """Return the type of a field of the configuration; None for an unknown field."""
    annotation: Any = Config
    for key in keys:
        field = getattr(annotation, "model_fields", {}).get(key)
        annotation = field and field.annotation
    return annotation


def _is_text(annotation: Any) -> bool:
    """Return whether a field holds any text, or text or None."""
    if get_origin(annotation) is tuple:  # a list of texts is written as a list
        return False
    kinds = [kind for kind in (annotation, *get_args(annotation)) if kind is not type(None)]
    return any(kind is str or (get_origin(kind) is Annotated and get_args(kind)[0] is str) for kind in kinds)
