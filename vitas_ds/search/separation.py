"""Can the scores of a search separate its best candidates? If not, say what would help.

Candidates are scored on the same images, so only the noise that they do not share can exchange two of them. It is the
residual of a two-way layout, candidates by images. With the spread of the scores it gives the reliability: the share of
the variance that is not noise. The best candidate is then drawn many times from the distribution of the true values,
given the scores. The rule: it should be among the top k with a probability of at least ``LIKELY``, where k is the
number of finalists or, without finalists, ``search.top_k``.

Only candidates of the second half of the search count, if there are ``FEWEST``: the first generations are random.
"""
# K candidates, m of them scored again, n images, D draws

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vitas_ds.search.ranking import fully_scored, ranked
from vitas_ds.search.scoring.candidate import Candidate, Score
from vitas_ds.search.scoring.scorer import Scorer
from vitas_ds.search.separation_result import LIKELY, Separation

FEWEST = 12  # candidates; a spread of fewer says little
AGAIN = 8  # candidates scored again, image by image
DRAWS, CHUNK = 2000, 100
FACTORS = (2, 4, 8, 16, 32)  # numbers of images to consider, relative to today's
NORMAL_95 = 1.645  # the 95th percentile of a normal distribution, in standard deviations


def recent(candidates: list[Candidate]) -> list[Candidate]:
    """Return the fully scored candidates of the second half of the generations, or of all if these are too few."""
    scored = fully_scored(candidates)
    last = max(c.generation for c in scored)
    late = [c for c in scored if c.generation > last / 2]
    return ranked(late if len(late) >= FEWEST else scored)


def separation(candidates: list[Candidate], scorer: Scorer, top: int) -> Separation | None:
    """Judge the scores of a search. All ranks call it.

    Args:
        candidates: All candidates of the search.
        scorer: The scorer of the search. It scores ``AGAIN`` candidates again.
        top: Number of top candidates k.

    Returns:
        None if there are too few candidates.
    """
    pool = recent(candidates)
    if len(pool) < FEWEST:
        return None
    at = np.linspace(0, len(pool) - 1, AGAIN).round().astype(int)
    again = list(replace(scorer, keep_points=True)([pool[i].spec for i in at]))
    noise = shared_noise(np.array([_shares(score) for score in again]))
    return judge(np.array([c.value for c in pool]), noise, max(s.stderr or 0.0 for s in again), scorer.images, top)


def _shares(score: Score) -> np.ndarray:
    """Return the share of points of each image, [n]."""
    assert score.points is not None and score.counts is not None
    _, _, images, most = score.counts
    return np.array(list(score.points), dtype=float) / (most // images)


def shared_noise(points_mn: np.ndarray) -> float:
    """Return the standard error of a mean over images, relative to other rows: an image is as hard for all of them."""
    m, n = points_mn.shape
    rest_mn = points_mn - points_mn.mean(1, keepdims=True) - points_mn.mean(0) + points_mn.mean()
    return math.sqrt((rest_mn**2).sum() / ((m - 1) * (n - 1)) / n)


def judge(scores: np.ndarray, noise: float, stderr: float, images: int, top: int) -> Separation:
    """Return the separation of scores [K], best first, with a given noise."""
    spread = upper_spread(scores)
    within = among_top(scores, noise)
    K, top = len(scores), min(top, len(scores))
    needed = int(np.argmax(within >= LIKELY)) + 1
    more = None if within[top - 1] >= LIKELY else _needed_images(K, top, images, noise, spread)
    return Separation(K, images, stderr, noise, spread, top, float(within[top - 1]), needed, more)


def upper_spread(scores: np.ndarray) -> float:
    """Return the standard deviation of a normal distribution with this median and 95th percentile.

    Unlike the standard deviation, it ignores how bad the bad candidates are.
    """
    middle, high = np.percentile(scores, [50, 95])
    return float(high - middle) / NORMAL_95


def among_top(scores: np.ndarray, noise: float) -> np.ndarray:
    """Return [K]: the probability that the truly best candidate is among the first 1, 2, ..., K of ``scores``.

    True values and noise are normal. Given a score s, the true value is then normal with mean r s + constant and
    variance r noise^2, where r is the reliability. This has the order of s plus noise of variance noise^2 / r.
    """
    K, spread = len(scores), upper_spread(scores)
    if not noise:
        return np.ones(K)
    reliability = 1 - (noise / spread) ** 2 if spread > noise else 0.0
    if not reliability:  # the order says nothing
        return np.arange(1, K + 1) / K
    rng, counts = np.random.default_rng(0), np.zeros(K)
    for _ in range(0, DRAWS, CHUNK):
        drawn_DK = scores + rng.normal(0, noise / math.sqrt(reliability), (CHUNK, K))
        counts += np.bincount(drawn_DK.argmax(1), minlength=K)
    return np.cumsum(counts) / DRAWS


def _needed_images(K: int, top: int, images: int, noise: float, spread: float) -> int | None:
    """Return the number of images with which the best of K normal candidates would be likely among the top ones."""
    if spread <= noise:
        return None
    rng, true = np.random.default_rng(0), math.sqrt(spread**2 - noise**2)
    truth_DK = rng.normal(0, true, (DRAWS // 4, K))
    best = truth_DK.max(1, keepdims=True)
    unit_DK = rng.normal(0, noise, truth_DK.shape)
    for factor in FACTORS:
        scores_DK = truth_DK + unit_DK / math.sqrt(factor)
        rank = (scores_DK > scores_DK[truth_DK == best][:, None]).sum(1)
        if (rank < top).mean() >= LIKELY:
            return factor * images
    return None


def top_count(finalists: int, top_k: int) -> int:
    """Return the number of candidates to look at after the search."""
    return finalists or top_k


def warning(found: Separation, finalists: bool, longer: Sequence[str] = ()) -> str:
    """Return the warning as one line; ``longer`` suggests a longer training of the supernet."""
    remedies = [*found.remedies(finalists), *longer]
    *others, last = remedies or ["train the supernet longer, or use many more search images"]
    fix = f"{', '.join(others)} or {last}" if others else last
    return f"search: the scores do not separate the best candidates: {found.brief()}; {fix}"
