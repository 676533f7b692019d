"""Exceptions of this project, and validation errors as one line."""

from typing import Any


class UserError(Exception):
    """A user error as one line: the location (a file or ``section.field``), the problem, and the fix.

    The command line prints it to stderr without a traceback and exits with status 2. Any other exception that leaves a
    stage is a bug of this project and keeps its traceback.
    """


def first_error(error: Any) -> str:
    """Format the first problem of a pydantic ``ValidationError``: ``section.field: message (given: value)``."""
    errors = error.errors()
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key"
    elif first["type"] not in ("missing", "value_error"):
        if first["type"] == "tuple_type":
            message = "must be a list, as in [a, b]"
        message += f" (given: {first['input']!r})"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{field}: {message}{more}" if field else f"{message}{more}"


class Preempted(Exception):
    """The job received a stop request and has saved its state. The command exits with status 75: start it again."""


class RankLost(Exception):
    """Another rank died or hangs, so this one ends too. The rank that noticed it has printed the error line."""

    STATUS = 69
