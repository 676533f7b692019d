"""Simulate a generation on many scoring ranks: ranks in groups, all groups in lockstep, stragglers and lost ranks.

The schedule is that of ``Scorer.__call__``: in each round, every group scores one candidate, and all ranks wait for the
slowest. The scores of a finished round are in the ledger. A lost rank ends the job with status 69 at the end of its
round's time limit; the next start takes the finished scores from the ledger and scores the others.
"""
# R rounds, G groups, K ranks of a group, C candidates

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DETECTION = 60.0  # seconds until the watchdog ends a job with a silent rank: "within a minute"


@dataclass(frozen=True)
class Cluster:
    """Ranks with different speeds.

    Attributes:
        ranks: Scoring ranks.
        group: Ranks per candidate.
        jitter: Standard deviation of the time of a share, relative to its mean.
        slow: Fraction of ranks that are slow all the time.
        slowdown: Their time relative to the others.
        lost: Expected lost ranks per second and rank.
        restart: Seconds of a new start.
    """

    ranks: int
    group: int = 1
    jitter: float = 0.03
    slow: float = 0.0
    slowdown: float = 1.5
    lost: float = 0.0
    restart: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """Result of a simulated generation.

    Attributes:
        seconds: Time from its start to its last score.
        ideal: Time without stragglers, losses and idle groups: all work divided by the ranks.
        starts: Number of starts of the job.
        scored: How often each candidate was scored and recorded, [C].
        wasted: Candidates whose unfinished score was lost.
    """

    seconds: float
    ideal: float
    starts: int
    scored: np.ndarray
    wasted: int


def simulate(cluster: Cluster, work: np.ndarray, seed: int) -> Outcome:
    """Simulate a generation; ``work`` [C] contains the seconds of one ordinary rank for each candidate."""
    rng = np.random.default_rng(seed)
    groups = cluster.ranks // cluster.group
    speed_GK = np.where(rng.random((groups, cluster.group)) < cluster.slow, cluster.slowdown, 1.0)
    scored, seconds, starts, wasted = np.zeros(len(work), int), 0.0, 1, 0
    while not scored.all():
        todo = np.flatnonzero(scored == 0)[:groups]  # known scores come from the ledger
        share_GK = speed_GK[: len(todo)] * work[todo, None] / cluster.group
        times_GK = share_GK * np.maximum(rng.normal(1, cluster.jitter, share_GK.shape), 0.5)
        duration = float(times_GK.max())
        loss = rng.exponential(1 / (cluster.lost * cluster.ranks)) if cluster.lost else np.inf
        if loss < duration:
            seconds += loss + DETECTION + cluster.restart
            starts, wasted = starts + 1, wasted + len(todo)
            continue
        scored[todo] += 1
        seconds += duration
    return Outcome(seconds, float(work.sum()) / cluster.ranks, starts, scored, wasted)
