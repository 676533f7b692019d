"""The one exception for a mistake of the user's, and how a validation error becomes one line."""

from typing import Any


class UserError(Exception):
    """What is wrong, where (a file or ``section.field``), and what is allowed, in one line.

    The command line prints it to stderr without a traceback and exits with status 2.
    Anything else that escapes a stage is a defect of this project and keeps its traceback.
    """


def first_error(error: Any) -> str:
    """The first complaint of a pydantic ``ValidationError`` as ``section.field: what is wrong (given: x)``."""
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
    """The job was asked to stop and has saved what it has; the command line exits with status 75 (start it again)."""


class RankLost(Exception):
    """Another rank died or hangs, so this one ends as well. The line was printed where the failure was noticed."""

    STATUS = 69
