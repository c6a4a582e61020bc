"""The exceptions of sources and their files.

This module imports nothing of the package, so that the confined process, which reads untrusted
files, starts quickly.
"""

from __future__ import annotations

import re

# The words that databases write before a value that they could not convert, and the value itself.
_VALUES = re.compile(
    r"""(\b(?:string|value|range|format|syntax for type [\w ]+):?\s+)(["']).*?\2""", re.DOTALL
)
_LINES = re.compile(r"Original Line:.*")


def hide_values(message: str) -> str:
    """Return a database's message without the values in it, which may be user ids."""
    return _VALUES.sub(r"\1…", _LINES.sub("", message))


class FileError(Exception):
    """An error of a file that cannot be used.

    The message gives the reason; the caller adds the file's name.
    """


class DamagedFileError(FileError):
    """An error of a file that contradicts its first bytes, or that does not match its checksums."""
