"""The limits on unpacking and reading files, and on queries.

The same limits hold for all formats. The settings are environment variables, because they protect
the machine and not a pipeline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.file_formats import GZIP, PARQUET, ZIP, ZSTD

MAX_FILE_GB = "BATCHREC_MAX_FILE_GB"
MAX_LINE_KB = "BATCHREC_MAX_LINE_KB"
MAX_FILE_MEMORY_GB = "BATCHREC_MAX_FILE_MEMORY_GB"
MAX_FILE_MINUTES = "BATCHREC_MAX_FILE_MINUTES"
QUERY_MEMORY_GB = "BATCHREC_QUERY_MEMORY_GB"
QUERY_MINUTES = "BATCHREC_QUERY_MINUTES"

GB = 10**9
KB = 1000
# The largest ratio of a file's unpacked size to its packed size. Packing shrinks ratings to a fifth
# or a tenth of their size, so a file that unpacks to more than this ratio does not hold real data.
TIMES_LARGER = 200
# The largest ratio for the outer layer of a file that is compressed twice. Compressed data hardly
# shrinks again, so the outer layer of real data unpacks to little more than its packed size.
TIMES_LARGER_TWICE = 20
# Every file may unpack to this many bytes, however small it is.
ALWAYS_ALLOWED = 100 * 1000 * 1000
MOST_BY_DEFAULT = 50 * GB
DEFAULT_LINE_KB = 1024
DEFAULT_FILE_MEMORY_GB, DEFAULT_FILE_MINUTES = 4, 30
DEFAULT_QUERY_MEMORY_GB, DEFAULT_QUERY_MINUTES = 4, 60
# A cell of a Parquet file may have a sixteenth of the bytes of a line, because Parquet can store a
# value once for a million rows.
CELLS_OF_A_LINE = 16
# The least bytes of a Parquet row: a user, an item and a time of 8 bytes each.
BYTES_OF_A_ROW = 24


class LimitError(FileError):
    """An error of a file or a query that exceeds a limit.

    The message names the setting, not the file.
    """


@dataclass(frozen=True)
class Limits:
    """The limits on reading a source's files and on querying them."""

    file_bytes: int | None = None
    """The most bytes that one file may unpack to.

    None stands for the default, which depends on the file's size.
    """

    line_bytes: int = DEFAULT_LINE_KB * KB
    """The most bytes of a line of text."""

    file_memory: int = DEFAULT_FILE_MEMORY_GB * GB
    """The most bytes of memory of the child process that converts files; see `confined`."""

    file_seconds: float = DEFAULT_FILE_MINUTES * 60
    """The most seconds of CPU time that the child process may take for one file."""

    query_memory: int = DEFAULT_QUERY_MEMORY_GB * GB
    """The most bytes of memory that a query may take."""

    query_seconds: float = DEFAULT_QUERY_MINUTES * 60
    """The most seconds that a query may take."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Return the limits that the environment variables set.

        Raises LimitError for a setting that is not a number above 0.
        """
        environment = os.environ if environment is None else environment
        file_gb = read_positive_number(environment, MAX_FILE_GB)

        def read_setting(name: str, default: float) -> float:
            return read_positive_number(environment, name) or default

        return cls(
            file_bytes=None if file_gb is None else int(file_gb * GB),
            line_bytes=int(read_setting(MAX_LINE_KB, DEFAULT_LINE_KB) * KB),
            file_memory=int(read_setting(MAX_FILE_MEMORY_GB, DEFAULT_FILE_MEMORY_GB) * GB),
            file_seconds=read_setting(MAX_FILE_MINUTES, DEFAULT_FILE_MINUTES) * 60,
            query_memory=int(read_setting(QUERY_MEMORY_GB, DEFAULT_QUERY_MEMORY_GB) * GB),
            query_seconds=read_setting(QUERY_MINUTES, DEFAULT_QUERY_MINUTES) * 60,
        )

    @property
    def cell_bytes(self) -> int:
        return self.line_bytes // CELLS_OF_A_LINE

    @property
    def download_bytes(self) -> int:
        return self.file_bytes if self.file_bytes is not None else MOST_BY_DEFAULT

    def compute_unfolded_bytes(self, packed: int) -> int:
        """Return the most bytes that a file of `packed` bytes may unpack to."""
        if self.file_bytes is not None:
            return self.file_bytes
        return min(MOST_BY_DEFAULT, max(ALWAYS_ALLOWED, TIMES_LARGER * packed))

    def require_size(self, unfolded: int, packed: int) -> None:
        """Raise LimitError if a file of `packed` bytes may not unpack to `unfolded` bytes."""
        if unfolded > self.compute_unfolded_bytes(packed):
            raise self.build_size_error(packed)

    def build_size_error(self, packed: int) -> LimitError:
        """Return the error for a file of `packed` bytes that unpacks to more than the limit."""
        most = self.compute_unfolded_bytes(packed)
        return self._build_limit_error(f"more than the {most} bytes from {packed}")

    def require_size_if_compressed_twice(self, start: bytes, unfolded: int, packed: int) -> None:
        """Raise LimitError if a file is compressed twice, and its outer layer unpacks to too much.

        The outer layer of such a file hides how much data there is. Nothing is checked if the user
        set the limit on a file's size.

        start: the first bytes that the outer layer unpacks to.
        unfolded: the size in bytes of the unpacked outer layer.
        packed: the size of the file in bytes.
        """
        twice = start.startswith((GZIP, ZSTD, ZIP, PARQUET))
        if self.file_bytes is None and twice and unfolded > TIMES_LARGER_TWICE * packed:
            raise self._build_limit_error(
                f"a compressed file, {unfolded} bytes from {packed}, more than what"
            )

    def require_line_length(self, length: int, line: str) -> None:
        """Raise LimitError if a line has more bytes than the limit.

        line: the name of the line in the message, such as `line 12`.
        """
        if length > self.line_bytes:
            raise LimitError(
                f"{line} is longer than {self.line_bytes / KB:g} KB: fix the file, or set"
                f" {MAX_LINE_KB} if that is real data"
            )

    def require_query(self, seconds: float, size: int) -> None:
        """Raise LimitError if a query takes too long, or if its result has too many bytes.

        seconds: the time that the query has taken so far.
        size: the bytes of the result so far.
        """
        if seconds > self.query_seconds:
            raise LimitError(
                f"it took longer than the {self.query_seconds / 60:g} minutes of {QUERY_MINUTES}:"
                " select less, or set it higher"
            )
        if size > self.download_bytes:
            raise LimitError(
                f"its result is larger than the {self.download_bytes} bytes of {MAX_FILE_GB}:"
                " select less, or set it higher"
            )

    def _build_limit_error(self, what: str) -> LimitError:
        return LimitError(
            f"it would unfold to {what} that {MAX_FILE_GB} allows: if it is real data, set it"
            " higher, or unpack the file yourself"
        )


def read_positive_number(environment: Mapping[str, str], name: str) -> float | None:
    """Return the number in an environment variable; None if the variable is not set.

    Raises LimitError if the variable is not a number above 0.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise LimitError(f"{name} is {text!r}: set a number above 0")
    return value
