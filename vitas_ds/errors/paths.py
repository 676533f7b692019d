"""Paths that people write, in recipes and on the command line."""

from __future__ import annotations

import os
import re


def clean_path(path: str) -> str:
    """Return a path with ``~`` and environment variables replaced, without a slash at the end.

    Raises:
        ValueError: A variable is not set, or no file can have this name.
    """
    path = os.path.expandvars(os.path.expanduser(path))
    if missing := re.search(r"\$(\w+|\{\w+\})", path):
        raise ValueError(f"the environment variable {missing[0]} is not set")
    if any(ord(character) < 32 for character in path):
        raise ValueError("a path must not have control characters or line breaks")
    longest = max(len(os.fsencode(part)) for part in path.split("/"))
    if longest > 255 or len(os.fsencode(path)) > 4095:
        raise ValueError(f"the path is too long: a name has at most 255 bytes (given: {longest}), a path 4095")
    return path.rstrip("/") or path[:1]
