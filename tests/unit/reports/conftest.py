"""Fixtures of the report's tests."""

from tests.helpers.runs import config, run

__all__ = ["config", "run"]
