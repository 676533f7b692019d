"""Fixtures: a synthetic record of a fidelity study, and the images of a small one."""

import numpy as np
import pytest

from tests.benchmarks.fidelity import images, working
from tests.benchmarks.fidelity.record import Record
from tests.helpers.digits import write_digits
from tests.helpers.fidelity_records import EQUALS, SPREADS, net
from tests.helpers.small_study import SEARCH, TRAIN, VAL, small_study


@pytest.fixture
def record(tmp_path):
    """Two seeds of 16 subnets. The mean accuracy of "equal NN" is 0.5 + NN / 100; each seed deviates by 0.004."""
    record = Record(tmp_path / "record.jsonl")
    signs = np.random.default_rng(0).choice([-1, 1], len(EQUALS))
    for i, name in enumerate(EQUALS):
        for seed in (0, 1):
            record.add(net(name, seed, 0.5 + i / 100 + 0.004 * signs[i] * (1 - 2 * seed)))
    for i, name in enumerate(SPREADS):
        for seed in (0, 1):
            record.add(net(name, seed, 0.4 + i / 10, macs=1_000_000 * (i + 1)))
    return record


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of digits."""
    return write_digits(tmp_path_factory.mktemp("data") / "digits", TRAIN + SEARCH, VAL)


@pytest.fixture(scope="module")
def work(root, tmp_path_factory):
    """The files of a small study, with its images as tensors."""
    work = working.Work(tmp_path_factory.mktemp("work"), small_study(root))
    working.prepare(work)
    return work


@pytest.fixture(scope="module")
def shown(work):
    """The images of the small study."""
    return images.read(work.images, work.study.config.data)
