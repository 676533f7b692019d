"""Settings of all tests: Hypothesis has no deadline per example because other work may share the cores."""

import signal

import pytest
from hypothesis import settings
from torch import nn

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# A shell starts background jobs with SIGINT ignored, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def original_linear():
    """Restore F.linear: ZeRO-3 replaces it for the rest of the process, which other tests share."""
    linear = nn.functional.linear
    yield
    nn.functional.linear = linear
