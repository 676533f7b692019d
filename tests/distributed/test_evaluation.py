"""Accuracy of subnets during training with two ranks and ZeRO 3.

References: the scores of one process that loads the written weights, and a training without evaluations.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.helpers.digits import write_digits
from tests.helpers.launching import ROOT, run_stage
from vitas_ds.data.loader import decode_all, normalize
from vitas_ds.distributed import comm
from vitas_ds.recipe import load
from vitas_ds.run.run_dir import run_of
from vitas_ds.search.probe import probed_subnets
from vitas_ds.search.scoring.scorer import Scorer, balanced_order
from vitas_ds.stages.common import split_training_images
from vitas_ds.stages.search import load_supernet

TINY = str(ROOT / "tests" / "fixtures" / "tiny.yaml")
IMAGES = 75  # the ranks have 38 and 37


def test_two_ranks_with_zero3_score_like_the_search_and_train_as_without(tmp_path: Path) -> None:
    write_digits(tmp_path / "digits")
    words = [f"run.dir={tmp_path}", f"data.train={tmp_path}/digits/train", "engine.zero=zero3", "supernet.lr=0.01"]
    words += ["supernet.ema_decay=0.8", "data.eval_batch_size=20", f"search.images={IMAGES}"]
    starts = {name: [*words, f"run.name={name}", f"supernet.eval_every={name}"] for name in ("0.5", "0")}
    for start in starts.values():
        run_stage("train-supernet", [TINY, *start], launcher="torchrun")
    config = load(TINY, starts["0.5"])
    run = run_of(config)
    ours, theirs = load_file(run.supernet_weights), load_file(tmp_path / "0" / "supernet" / "weights.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)

    rows = [row for row in map(json.loads, run.metrics.open()) if row.get("evaluation")]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    (_, images), ranks = split_training_images(config), comm.init("cpu")
    score = Scorer(
        load_supernet(config, run)[0], decode_all(images, config.data, 28, ranks), torch.from_numpy(images.labels),
        lambda x: normalize(x, config.data), balanced_order(images.labels, IMAGES, config.run.seed), ranks,
    )  # fmt: skip
    subnets = probed_subnets(config)
    expected = [s.value for s in score(list(subnets.values()))]
    assert [rows[-1][f"accuracy/{name}"] for name in subnets] == expected and max(expected) > min(expected)
