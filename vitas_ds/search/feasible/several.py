"""The networks within each of several budgets (``search.budgets``). Importing this module does not import torch."""

from __future__ import annotations

from vitas_ds import config
from vitas_ds.arch.space import SearchSpace
from vitas_ds.config.limits import Limit, format_number, parse_limit
from vitas_ds.errors import UserError
from vitas_ds.search.feasible import budget as budgets
from vitas_ds.search.feasible.budget import COSTS, PS_PER_SECOND, Costs
from vitas_ds.search.feasible.operators import cost_range
from vitas_ds.search.feasible.table import FeasibleSet, feasible_set


def feasible_sets(space: SearchSpace, search: config.Search, costs: Costs = COSTS) -> list[FeasibleSet]:
    """Return the networks within each budget of ``search.budgets``; without any, those within the one budget.

    Raises:
        UserError: No network is within a budget, or all networks are far below it.
    """
    if not search.budgets:
        return [feasible_set(space, budgets.from_config(search, costs), costs)]
    check_reach(space, search, costs)
    pairs = zip(search.budgets, search.each_budget(), strict=True)
    return [_within(space, text, one, costs) for text, one in pairs]


def reachable(space: SearchSpace, search: config.Search) -> list[FeasibleSet | None]:
    """Return the networks within each budget as ``feasible_sets`` does; None for a budget without any."""
    found: list[FeasibleSet | None] = []
    for one in search.each_budget() if search.budgets else [search]:
        try:
            found.append(feasible_set(space, budgets.from_config(one)))
        except UserError:
            found.append(None)
    return found


def check_reach(space: SearchSpace, search: config.Search, costs: Costs = COSTS) -> None:
    """Check that every limit of ``search.budgets`` is between the costs of the smallest and the largest network.

    Raises:
        UserError: It is not. The message has both costs.
    """
    limits = [limit for limit in map(parse_limit, search.budgets) if limit.cost in costs]
    everything = feasible_set(space, {}, costs) if limits else None
    for limit in limits:
        assert everything is not None
        unit = PS_PER_SECOND if limit.cost == "latency" else 1
        low, high = (value / unit for value in cost_range(everything, limit.cost))
        if not low <= limit.high <= high:
            where = "below the smallest" if limit.high < low else "above the largest"
            raise UserError(
                f"search.budgets: {limit.text}: {where} network of the space; a budget must be between {low:,.10g} and "
                f"{high:,.10g} {limit.cost}"
            )


def _within(space: SearchSpace, text: str, one: config.Search, costs: Costs) -> FeasibleSet:
    try:
        return feasible_set(space, budgets.from_config(one, costs), costs)
    except UserError as error:
        reason = str(error).partition(": ")[2]
        raise UserError(f"search.budgets: {text}: {reason}{_wider(parse_limit(text))}") from None


def _wider(limit: Limit) -> str:
    """Return advice if the lower limit is not the user's."""
    if limit.text.count("<") > 1:
        return ""
    upper = format_number(limit.high)
    return f"; a budget without a lower limit starts at 90 %: use '0<={limit.cost}<={upper}'"
