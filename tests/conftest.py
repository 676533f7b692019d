"""What all tests share: hypothesis without a time limit for a single example, for other work may share the cores."""

import signal

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
# a shell starts what it puts into the background deaf to Ctrl-C, and so would be all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
