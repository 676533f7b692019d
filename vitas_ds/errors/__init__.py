"""Exceptions of this project, validation errors as one line, exit statuses (exits.py), the reader of text (reading.py).

May import: nothing of this project.
"""

import difflib
import re
from typing import Any


class UserError(Exception):
    """A user error as one line: the location (a file or ``section.field``), the problem, and the fix.

    The command line prints it to stderr without a traceback and exits with status 2. Any other exception that leaves a
    stage is a bug of this project and keeps its traceback.
    """


class Stale(UserError):
    """Results of a stage were made from other settings or inputs than this start has.

    The option ``--redo`` moves them aside and runs the stage again (stages/redo.py). Without it, this is a user error.

    Attributes:
        run: Folder of the run.
        stage: The stage whose results they are.
        reason: What has changed, for one line on the console.
    """

    def __init__(self, run: object, stage: str, reason: str, problem: str) -> None:
        super().__init__(str(run), stage, reason, problem)
        self.run, self.stage, self.reason, self.problem = str(run), stage, reason, problem

    def __str__(self) -> str:
        return f"{self.problem}; or start {self.stage} with --redo, which keeps old results in old/"


LIMIT = 300  # characters of a message


def shorten(text: str, limit: int = LIMIT) -> str:
    """Return printable text on one line. Of long text, keep the start (the location) and the end (the fix).

    A lone surrogate, which is a byte of a file name that is not UTF-8, is escaped, and so are control characters.
    """
    text = printable(" ".join(text.split()))
    kept = limit - 5
    return text if len(text) <= limit else f"{text[: kept * 2 // 3]} ... {text[len(text) - kept // 3 :]}"


def printable(name: str) -> str:
    """Escape line breaks, control characters and undecodable bytes of a file name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def first_error(error: Any) -> str:
    """Format the first problem of a pydantic ``ValidationError``: ``section.field: message (given: value)``."""
    errors = error.errors()
    first = errors[0]
    field = shorten(".".join(str(part) for part in first["loc"]), 100)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key"
    elif first["type"] not in ("missing", "value_error"):
        plain = {"tuple_type": "must be a list, as in [a, b]", "model_type": "must be a mapping of keys"}
        if first["type"] == "string_pattern_mismatch":
            message = _allowed_characters(first["ctx"]["pattern"], str(first["input"]))
        message = plain.get(first["type"], message)
        message += f" (given: {shorten(repr(first['input']), 60)})"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{field}: {message}{more}" if field else f"{message}{more}"


def _allowed_characters(pattern: str, text: str) -> str:
    """Describe a pattern of letters, digits and a few signs, such as ``^[A-Za-z0-9.-]+$``."""
    signs = [f"'{sign}'" for sign in "._-" if sign in re.sub(r"A-Za-z0-9", "", pattern)]
    if re.fullmatch(r"[A-Za-z0-9._-]+\.", text):
        return "must not end with '.'"
    return f"must have only {', '.join(['letters', 'digits', *signs[:-1]])} and {signs[-1]}"


FEW_KEYS = 12  # a message lists the known keys of a section that has no more
_TRAINING = {
    "accumulate": "grad_accum_steps", "ema": "ema_decay", "init_from": "resume_from", "weights_from": "init_weights",
}  # fmt: skip
RENAMED = {  # keys of version 0.1 and their names since 0.2, by section
    "engine": {"checkpoint_activations": "grad_checkpointing"},
    "augment": {"views": "aug_repeats"},
    "mixing": {"switch": "switch_prob"},
    "supernet": _TRAINING | {"budget": "macs", "rule": "sampling", "random_nets": "random_subnets"},
    "retrain": _TRAINING,
    "search": {"fresh": "random_fraction", "predictor": "surrogate", "latency_batch": "latency_batch_size"},
}  # fmt: skip


def explain(error: Any, model: type) -> str:
    """Return the first problem as one line; for an unknown key, with its new name or similar known ones.

    Args:
        error: A pydantic ``ValidationError``.
        model: The validated pydantic model.
    """
    first = error.errors()[0]
    text = first_error(error)
    if first["type"] != "extra_forbidden":
        return text
    if name := _new_name(first["loc"]):
        return f"{text}; version 0.2 renamed it to {name}"
    *sections, key = [str(part) for part in first["loc"]]
    known: Any = model
    for name in sections:
        known = getattr(known, "model_fields", {}).get(name)
        known = known and known.annotation
    keys = list(getattr(known, "model_fields", ()))
    if similar := difflib.get_close_matches(key, keys, 1):
        return f"{text}; did you mean {similar[0]}?"
    return f"{text}; known keys: {', '.join(keys)}" if 0 < len(keys) <= FEW_KEYS else text


def is_version_01(error: Any) -> bool:
    """Return whether the configuration has a key of version 0.1."""
    return any(problem["type"] == "extra_forbidden" and _new_name(problem["loc"]) for problem in error.errors())


def _new_name(location: tuple[int | str, ...]) -> str | None:
    section, key = ("", *location)[-2:]
    return RENAMED.get(str(section), {}).get(str(key))


class Preempted(Exception):
    """The job received a stop request and has saved its state. The command exits with status 75: start it again."""


class RankLost(Exception):
    """Another rank died or hangs, so this one ends too. The rank that noticed it has printed the error line."""

    STATUS = 69


class SaveFailed(OSError):
    """A checkpoint could not be written: the disk is full, not writable, or does not answer."""

    STATUS = 74
