"""Render a template of ``templates/`` to one self-contained HTML page that loads nothing from a network."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """Return the page as text. Values are escaped, except for the SVG charts of svg.py."""
    environment = Environment(
        loader=PackageLoader("vitas_ds.reports"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(template).render(values)
