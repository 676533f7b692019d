"""Settings of all tests: Hypothesis has no deadline per example because other work may share the cores."""

import signal

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# A shell starts background jobs with SIGINT ignored, and the processes that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
