"""What all tests share: hypothesis without a time limit for a single example, for other work may share the cores."""

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
