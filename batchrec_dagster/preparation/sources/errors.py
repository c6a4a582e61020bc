"""The errors of sources and of their files.

It imports nothing of the package, so that the process that reads foreign files starts quickly.
"""

from __future__ import annotations

import re

# What databases write before a value that they could not convert, and the value.
_VALUES = re.compile(
    r"""(\b(?:string|value|range|format|syntax for type [\w ]+):?\s+)(["']).*?\2""", re.DOTALL
)
_LINES = re.compile(r"Original Line:.*")


def hide_values(message: str) -> str:
    """The message of a database without values, which may be ids of users."""
    return _VALUES.sub(r"\1…", _LINES.sub("", message))


class FileError(Exception):
    """A file cannot be used; the message says why, and the caller adds the name."""


class DamagedFileError(FileError):
    """A file is not what its first bytes say, or does not match its checksums."""
