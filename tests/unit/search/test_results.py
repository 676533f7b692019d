"""Selection from the files of a search. Reference: the files of another search."""

from __future__ import annotations

import json

import pytest

from tests.helpers import runs
from vitas_ds.arch.spec import spec_from_dict
from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.search.results import select

config = runs.config  # a fixture


@pytest.mark.parametrize(("name", "choice"), [("best.json", "search:best"), ("pareto.json", "search:pareto[0]")])
def test_a_network_that_was_not_scored_is_refused(config: Config, name: str, choice: str) -> None:
    """As of another run, whose file has the place of this one."""
    run, best = runs.search(config)
    assert select(run, choice) == best.spec
    path = run.search / name
    text = path.read_text().replace(f'"embed_dim": {best.spec.embed_dim}', f'"embed_dim": {best.spec.embed_dim + 1}')
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{name}: names a network that is not in ledger.jsonl; restore it"):
        select(run, choice)
    run.ledger.unlink()  # without a ledger, nobody knows
    row = json.loads(text)
    expected = row["spec"] if name == "best.json" else row[0]["spec"]
    assert select(run, choice) == spec_from_dict(expected, "expected")
