"""Supernets trained ten times as long, to test whether longer training improves their scores.

This part (``--further``) adds rows to the record and the tables of the study and takes as long as its longest job. It
is separate from study.py and working.py because the digest of those files marks the rows of a record.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from typing import Any

import torch

from tests.benchmarks.fidelity import learning, scoring, study
from tests.benchmarks.fidelity.images import Images
from tests.benchmarks.fidelity.pool import pool
from tests.benchmarks.fidelity.record import Record
from tests.benchmarks.fidelity.study import Variant
from tests.benchmarks.fidelity.working import Work
from vitas_ds.config import Supernet

FURTHER = (
    Variant("ten times as long", length=10.0),
    Variant("ordinal, ten times as long", Supernet(sharing="ordinal"), length=10.0),
)


def do(work: Work, record: Record, workers: int, stamp: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Train and score the supernets that are not in the record. Yields each row after writing it."""
    todo = [v for v in FURTHER if job_of(v) not in record.rows]
    processes = pool(workers)
    try:
        for future in as_completed([processes.submit(run, variant, work) for variant in todo]):
            row = future.result() | stamp
            record.add(row)
            yield row
    finally:
        processes.shutdown(cancel_futures=True)


def job_of(variant: Variant) -> str:
    """Return the name of the job in the record. There is one seed."""
    return f"{variant.name}, seed 0"


def run(variant: Variant, work: Work) -> dict[str, Any]:
    """Train and score a supernet and return its row, in the format of the study."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False  # as in working.py
    images, start = Images(**torch.load(work.images(), mmap=True)), time.perf_counter()
    trained = learning.train_supernet(variant, images, work.size, 0)
    seconds = round(time.perf_counter() - start, 1)
    scores = scoring.scores(variant, trained.supernet, trained.averages, images, study.nets(work.size))
    return {
        "job": job_of(variant), "kind": "supernet", "what": variant.name, "seed": 0, "steps": trained.steps,
        "positions": trained.positions, "loss": trained.loss, "training_seconds": seconds, "scores": scores,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
