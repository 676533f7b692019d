"""Limits of a search: numbers such as ``2.4G``, and the text of ``search.budgets``, such as ``1.8G<=macs<=2.4G``.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

UNITS = {"": 1.0, "u": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BOUNDED = ("macs", "vitas_flops", "params", "activations", "latency")
BAND = 0.9  # smallest share of a budget without a lower limit: cheaper networks are rarely the best ones
NUMBER = r"([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([umkKMGT]?)"
HELP = "a budget is a number of MACs such as 2.4G, a limit such as params<=5M, or a range [2.2G, 2.4G]"


@dataclass(frozen=True)
class Limit:
    """Range of a cost, both ends included. ``text`` is the budget in its normal form."""

    cost: str
    low: float
    high: float
    text: str


def parse_limit(budget: Any) -> Limit:
    """Parse a budget: a number of MACs, text, or a range of MACs.

    Raises:
        ValueError: It is not a budget.
    """
    if isinstance(budget, list | tuple) and len(budget) == 2:
        budget = f"{budget[0]}<=macs<={budget[1]}"
    text = re.sub(r"\s", "", str(budget))
    found = re.fullmatch(rf"(?:{NUMBER}<=)?(?:({'|'.join(BOUNDED)})(<=?))?{NUMBER}", text)
    if not found or isinstance(budget, bool) or (found[1] and not found[3]):
        raise ValueError(f"{_short(text)}: {HELP}")
    try:
        low, high = float(found[1] or 0) * UNITS[found[2] or ""], float(found[5]) * UNITS[found[6]]
    except ValueError:
        raise ValueError(f"{_short(text)}: {HELP}") from None
    if not 0 <= low < high < 1e18:
        raise ValueError(f"{_short(text)}: the limit must be above {'the lower one' if low else '0'}, and below 1e18")
    cost, sign = found[3] or "macs", found[4] or "<="
    normal = f"{format_number(low)}<={cost}" if found[1] else cost
    last = high if sign == "<=" else math.nextafter(high, 0)
    return Limit(cost, low if found[1] else BAND * high, last, f"{normal}{sign}{format_number(high)}")


def parse_number(value: Any) -> Any:
    """Return the number that text such as ``300k`` means; anything else as it is.

    Raises:
        ValueError: The text is not a number.
    """
    if not isinstance(value, str):
        return value
    found = re.fullmatch(NUMBER, value.strip())
    try:
        return float(f"{float(found[1]) * UNITS[found[2]]:.15g}") if found else float(value)  # 1.1M is 1100000
    except ValueError:
        raise ValueError(f"{_short(value)}: not a number such as 2e6, 300k, 1.2M, 2.4G or, of seconds, 5m") from None


Number = Annotated[float, BeforeValidator(parse_number), WithJsonSchema({"type": ["number", "string"]})]
Range = tuple[Number, Number]


def normal_form(budget: Any) -> str:
    """Return the normal form of a budget, such as ``macs<=2.4G``."""
    return parse_limit(budget).text


def format_number(value: float) -> str:
    """Format a number with a unit, such as 2.4G."""
    name = next((name for name in "TGMK" if value >= UNITS[name]), "" if value >= 1 or not value else "m")
    return f"{value / UNITS[name]:.10g}{name}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
