"""The errors of sources and of their files. Imports nothing, so that the child process that reads
foreign files starts quickly."""

from __future__ import annotations


class SourceError(Exception):
    """A source cannot be used; one line that names the source and the fix."""


class FileError(Exception):
    """A file cannot be used; the message says why, and the caller adds the name."""


class DamagedFileError(FileError):
    """A file is not what its first bytes say, or does not match its checksums."""
