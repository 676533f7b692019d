"""The base of all sections of the configuration."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from vitas_ds.errors.paths import clean_path

COUNT = 2**31 - 1  # largest number of steps or images
LARGEST = 1e18  # of a number in a list, such as a budget
FilePath = Annotated[str, AfterValidator(clean_path)]  # of a file or folder; some fields allow certain words too


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

    @model_validator(mode="after")
    def _in_range(self) -> Section:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and any(isinstance(x, int | float) and abs(x) > LARGEST for x in value):
                raise ValueError(f"{name}: numbers must be {LARGEST:g} or less (given: {list(value)})")
        return self


def check_pair(first: tuple[str, int], second: tuple[str, int]) -> None:
    """Raise ``ValueError`` if one of two settings (name, value) is set, and the other is 0."""
    for (name, value), (other, other_value) in ((first, second), (second, first)):
        if value and not other_value:
            raise ValueError(f"{name} is set, but {other} is 0; set both, or none")
