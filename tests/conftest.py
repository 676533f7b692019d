"""Settings of all tests: tests and fixtures start from the same random numbers, so a failure can be repeated.

Hypothesis tries the same examples in each run, and has no deadline because other work may share the cores. Set
``HYPOTHESIS_PROFILE=explore`` to try new examples.
"""

import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import nn

from vitas_ds.distributed import console

settings.register_profile("repeat", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)  # else it repeats them where CI is set
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP: the processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def seeded():
    """Seed the global generators of torch, numpy and Python, which libraries draw from."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """Seed them for a fixture of a module or session too: it is set up before ``seeded``."""
    if fixturedef.scope != "function":
        _seed()


def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def original_linear():
    """Restore F.linear: ZeRO-3 replaces it for the rest of the process, which other tests share."""
    linear = nn.functional.linear
    yield
    nn.functional.linear = linear


@pytest.fixture(autouse=True)
def own_messages():
    """Forget which rank printed an error: a stage that fails keeps it, and a later test in the process prints none."""
    yield
    console.share_claim(None)
    console.share_first(None)
