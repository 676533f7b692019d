"""The base of all sections of the configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A section of the configuration. It is frozen, and rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and field.annotation in (int, float):
                raise ValueError(f"{name} must be a number (given: {str(value).lower()})")
        return data


def check_pair(first: tuple[str, int], second: tuple[str, int]) -> None:
    """Raise ``ValueError`` if one of two settings (name, value) is set, and the other is 0."""
    for (name, value), (other, other_value) in ((first, second), (second, first)):
        if value and not other_value:
            raise ValueError(f"{name} is set, but {other} is 0; set both, or none")
