"""Fixtures of the report tests."""

from tests.helpers.runs import config, run

__all__ = ["config", "run"]
