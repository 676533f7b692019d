"""Retrain networks of a search of another run.

Reference: names and choices written by hand, and the results of a search.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitas_ds.config import Config
from vitas_ds.errors import UserError
from vitas_ds.run.files import write_json
from vitas_ds.run.run_dir import RunDir, run_of
from vitas_ds.run.start import open_run
from vitas_ds.stages.retrain import chosen_spec, one_network_each


def make(root: Path, spec: str, **retrain: Any) -> Config:
    space = {"image_size": 28, "num_classes": 10, "patch_sizes": [7], "embed_dim": 32, "num_heads": [2],
             "qkv_dim": 96, "mlp_dim": 64, "ratios": [1.0]}  # fmt: skip
    run = {"name": "a", "dir": str(root)}
    return Config.model_validate({"run": run, "space": space, "retrain": {"spec": spec, **retrain}})


@pytest.fixture
def searched(tmp_path: Path) -> RunDir:
    """A run with a front of networks with one, two and three layers."""
    run = open_run(make(tmp_path, "search:best"), True, stage="search")
    layer = {"num_heads": 2, "qkv_dim": 96, "mlp_dim": 64}
    spec = {"image_size": 28, "patch_size": 7, "embed_dim": 32, "num_classes": 10}
    rows = [
        {"spec": spec | {"layers": [layer] * depth}, "macs": 2e5 * depth, "score": depth / 10} for depth in (1, 2, 3)
    ]
    write_json(run.pareto, rows)
    return run


def test_several_networks_have_runs_of_their_own(tmp_path: Path, searched: RunDir) -> None:
    configs = one_network_each(make(tmp_path, "search:pareto[0,2]", init="supernet"))
    assert [run_of(config).path for config in configs] == [tmp_path / "a-pareto0", tmp_path / "a-pareto2"]
    assert [config.retrain.spec for config in configs] == [f"{tmp_path}/a:search:pareto[{i}]" for i in (0, 2)]
    assert {config.search.checkpoint for config in configs} == {f"{tmp_path}/a"}
    assert [chosen_spec(config, run_of(config)).depth for config in configs] == [1, 3]
    for teacher, checkpoint in ((None, None), ("init", f"{tmp_path}/a")):  # the teacher is in the run of the supernet
        configs = one_network_each(make(tmp_path, "search:pareto[0,2]", teacher={"model": teacher}))
        assert {config.search.checkpoint for config in configs} == {checkpoint}
    one = make(tmp_path, "search:pareto[1]")
    assert one_network_each(one) == [one] and chosen_spec(one, run_of(one)).depth == 2


def test_an_unknown_entry_prints_the_front(tmp_path: Path, searched: RunDir) -> None:
    config = make(tmp_path, f"{searched.path}:search:pareto[7]")
    front = r"has pareto\[0\] to pareto\[2\]: \[0\] 0.2M 10.0%, \[1\] 0.4M 20.0%, \[2\] 0.6M 30.0%"
    with pytest.raises(UserError, match=front):
        chosen_spec(config, run_of(config))
    config = make(tmp_path, f"{tmp_path}/nowhere:search:best")
    with pytest.raises(UserError, match="nowhere: not a run"):
        chosen_spec(config, run_of(config))


def test_without_a_search_the_network_of_init_is_suggested(tmp_path: Path) -> None:
    given = make(tmp_path, "search:best", init=str(tmp_path / "old"))
    with pytest.raises(
        UserError, match=r"retrain\.spec: search:best: .*; set retrain\.spec=init to keep the network of"
    ):
        chosen_spec(given, run_of(given))
    for init in ("scratch", "supernet"):
        random = make(tmp_path, "search:best", init=init)
        with pytest.raises(UserError, match=r"best\.json does not exist: the search .* has not finished; run it first"):
            chosen_spec(random, run_of(random))
