"""A digest at the end of each line of a ledger: an edited score gives no error by itself, only another result.

The digest does not cover ``seconds``, which differ between equal searches. A line without a digest, from an older
version or another program, is not verified.
"""

from __future__ import annotations

import hashlib
import re

from vitas_ds.errors import UserError

_START, _END, _LENGTH = b', "sha256": "', b'"}', 16  # hexadecimal digits
_SIZE = len(_START) + _LENGTH + len(_END)
_SECONDS = re.compile(rb'"seconds": [-+.0-9e]+, ')


def add_digest(line: str) -> str:
    """Return a line, a JSON object, with its digest as last field."""
    content = line.encode()
    return (content[:-1] + _START + _digest(content) + _END).decode()


def without_digest(line: bytes, location: str) -> bytes:
    """Return a line without its digest.

    Args:
        line: The line, without its newline.
        location: File and line, for the error message.

    Raises:
        UserError: The line was changed.
    """
    if line[-_SIZE : -_LENGTH - len(_END)] != _START:
        return line
    content = line[:-_SIZE] + b"}"
    if _digest(content) != line[-_LENGTH - len(_END) : -len(_END)]:
        raise UserError(f"{location} was changed: its SHA-256 does not match; remove it to score its candidate again")
    return content


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(_SECONDS.sub(b"", content, count=1)).hexdigest()[:_LENGTH].encode()
