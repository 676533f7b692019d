"""Whether scores separate candidates. References: values by hand, and simulated searches with known true values."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from tests.helpers.searches import SMALL, likeness, search
from tests.helpers.trained import BUDGET, SPACE, prepare, trained
from vitas_ds.config import Search
from vitas_ds.distributed.comm import Ranks
from vitas_ds.errors import LIMIT
from vitas_ds.search import separation
from vitas_ds.search.curve import Longer
from vitas_ds.search.scoring.ledger import in_memory
from vitas_ds.search.scoring.scorer import Scorer, balanced_order
from vitas_ds.search.separation import among_top, judge, recent, shared_noise, upper_spread
from vitas_ds.search.separation_result import Separation


def test_scores_that_spread_less_than_their_noise_separate_nothing():
    """With k of K candidates looked at, the probability is k / K, however large k is."""
    scores = np.linspace(0.501, 0.5, 12)
    found = separation.judge(scores, noise=0.03, stderr=0.05, images=80, top=12)
    assert found.probability == 1 and not found.enough
    assert separation.judge(scores, noise=1e-5, stderr=0.05, images=80, top=12).enough


def test_noise_is_what_the_images_do_not_share_by_hand():
    # The differences 0, -1, 1 have the variance 1, their mean has 1 / 3; each of the two candidates has half of it.
    assert shared_noise(np.array([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])) == pytest.approx(math.sqrt(1 / 6))
    assert shared_noise(np.array([[1.0, 0.0, 1.0]] * 3)) == 0  # hard images, but the same for all


def test_the_spread_ignores_bad_candidates():
    rng = np.random.default_rng(0)
    good = rng.normal(0.8, 0.02, 4000)
    assert upper_spread(good) == pytest.approx(0.02, rel=0.05)
    worse = np.where(good < 0.78, good - 0.5, good)
    assert upper_spread(worse) == upper_spread(good) < worse.std() / 5


def test_two_candidates_by_hand():
    spread = 0.45 / 1.645  # from the median 0.5 to the 95th percentile 0.95
    reliability = 1 - (0.25 / spread) ** 2
    expected = norm.cdf(1 / (math.sqrt(2) * 0.25 / math.sqrt(reliability)))
    assert among_top(np.array([1.0, 0.0]), 0.25) == pytest.approx([expected, 1], abs=0.03)
    assert among_top(np.array([1.0, 0.0]), 1e-3).tolist() == [1, 1]
    assert among_top(np.array([1.0, 0.0]), 0.3).tolist() == [0.5, 1]  # the noise explains the whole spread
    assert among_top(np.ones(4), 0.0).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_the_probability_is_that_of_simulated_searches(noise):
    """The spread is known up to its sampling error, so the mean over many searches must agree."""
    rng, found, seen = np.random.default_rng(1), [], []
    for _ in range(150):
        truth = rng.normal(size=150)
        scores = truth + rng.normal(0, noise, 150)
        order = np.argsort(-scores)
        seen.append(np.argmax(truth[order]) < 5)
        found.append(among_top(scores[order], noise)[4])
    assert np.mean(found) == pytest.approx(np.mean(seen), abs=0.08)


def test_remedies_are_those_of_simulated_searches():
    rng = np.random.default_rng(0)
    scores = np.sort(0.7 + rng.normal(0, 0.02, 200))[::-1]
    found = judge(scores, 0.0173, 0.03, 500, top=3)  # three quarters of the variance are noise
    assert not found.enough and found.needed > 3
    assert among_top(scores, 0.0173)[found.needed - 1] >= 0.5 > among_top(scores, 0.0173)[found.needed - 2]
    assert found.needed_images in (4000, 8000)
    truth, right = rng.normal(0, math.sqrt(found.spread**2 - 0.0173**2), (500, 200)), []
    for factor in (found.needed_images / 500 / 2, found.needed_images / 500):
        measured = truth + rng.normal(0, 0.0173 / math.sqrt(factor), truth.shape)
        best = np.argsort(-measured, 1)[:, :3] == truth.argmax(1)[:, None]
        right.append(best.any(1).mean())
    assert right[0] < 0.55 and right[1] > 0.45
    hopeless = judge(scores, 0.03, 0.03, 500, top=3)
    assert hopeless.needed_images is None and hopeless.probability == pytest.approx(3 / 200) and hopeless.needed == 100
    sure = judge(scores, 1e-5, 0.03, 500, top=3)
    assert sure.enough and sure.needed == 1 and sure.needed_images is None


def test_the_warning_names_the_numbers_and_the_remedies():
    found = Separation(200, 500, 0.0201, 0.0123, 0.015, 5, 0.31, 14, 2000)
    line = separation.warning(found, False, ["train the supernet for about 90 epochs"])
    assert "\n" not in line and line.startswith("search: the scores do not separate the best candidates: ")
    numbers = ("1.23%", "best of 200", "1.50%", "top 5", "31%")
    images = "use 2,000 images (data.search_per_class)"
    for text in (*numbers, "train 14 candidates", f"{images} or train the supernet for about 90 epochs"):
        assert text in line
    assert "train 14 finalists" in separation.warning(found, True)
    hopeless = replace(found, needed=100, needed_images=None)
    text = "1.50%); train the supernet longer, or use many more search images"
    assert separation.warning(hopeless, True).endswith(text)
    large = Separation(1_000, 50_000, 0.0201, 0.0123, 0.115, 50, 0.49, 250, 800_000)
    longest = separation.warning(large, True, [Longer(0.105, 9.5).describe(300)])
    assert len(f"warning: search: throughput>=10000: {longest.removeprefix('search: ')}") <= LIMIT  # else it is cut
    for text in ("2.01%", "500 images", "200 candidates"):
        assert text in found.describe()  # in the report
    assert json.loads(json.dumps(found.to_dict()))["needed_images"] == 2000


def test_only_the_later_half_of_the_search_counts():
    cfg = Search(population=12, generations=4)
    candidates = search(SMALL, cfg, lambda specs: map(likeness, specs), in_memory(), images=10).candidates
    pool = recent(candidates)
    assert {c.generation for c in pool} == {3, 4} and len(pool) == 24
    values = [c.value for c in pool]
    assert values == sorted(values, reverse=True)
    assert len(recent(candidates[:12] + candidates[36:40])) == 16  # four late ones are too few


@pytest.mark.slow
def test_a_real_search_measures_its_noise_image_by_image():
    """References: the points of each image, computed here, and a second call."""
    model = trained()
    labels = torch.from_numpy(model.images.labels)
    order = balanced_order(model.images.labels, 100, 0)
    scorer = Scorer(model.supernet, model.pixels, labels, prepare, order, Ranks(0, 1, 0, torch.device("cpu")), 50)
    cfg = Search(algorithm="random", population=12, generations=2, macs=BUDGET)
    candidates = search(SPACE, cfg, scorer, in_memory(), 0, images=100).candidates
    found = separation.separation(candidates, scorer, 5)
    assert found == separation.separation(candidates, scorer, 5)
    pool = recent(candidates)
    rows = []
    with torch.no_grad():
        for i in np.linspace(0, len(pool) - 1, 8).round().astype(int):
            logits = model.supernet(prepare(model.pixels[order]), pool[i].spec)[0]
            rows.append((logits.argmax(-1) == labels[order]).double().numpy())
    assert found.noise == pytest.approx(shared_noise(np.array(rows)))
    assert found.noise < found.stderr < 0.06 and found.candidates == 12 and found.images == 100
    assert separation.separation(candidates[:8], scorer, 5) is None
