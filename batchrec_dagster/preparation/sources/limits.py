"""What a file may unfold to: one budget for downloads, archives, Parquet and lines.

The settings are environment variables, because they protect the machine and not a pipeline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from batchrec_dagster.preparation.sources.formats import GZIP, PARQUET, ZIP, ZSTD

MAX_FILE_GB = "BATCHREC_MAX_FILE_GB"
MAX_LINE_KB = "BATCHREC_MAX_LINE_KB"
QUERY_MEMORY_GB = "BATCHREC_QUERY_MEMORY_GB"
QUERY_MINUTES = "BATCHREC_QUERY_MINUTES"

GB = 10**9
KB = 1000
# Ratings shrink to a fifth or a tenth; what unfolds to far more is not data.
TIMES_LARGER = 200
# The outer layer of what is compressed twice: compressed data hardly shrinks again.
TIMES_LARGER_TWICE = 20
ALWAYS_ALLOWED = 100 * 1000 * 1000
MOST_BY_DEFAULT = 50 * GB
DEFAULT_LINE_KB = 1024
DEFAULT_QUERY_MEMORY_GB, DEFAULT_QUERY_MINUTES = 4, 60
# A cell of Parquet may be a sixteenth of a line: one that stands once can count in a million rows.
CELLS_OF_A_LINE = 16
# The least of a Parquet row: a user, an item and a time of 8 bytes each.
BYTES_OF_A_ROW = 24


class LimitError(Exception):
    """A file unfolds to more than a limit; the message names the setting, not the file."""


@dataclass(frozen=True)
class Limits:
    """Bytes that one file may unfold to, None for the default that depends on its size; bytes of a
    line of text; bytes of memory and seconds of a query."""

    file_bytes: int | None = None
    line_bytes: int = DEFAULT_LINE_KB * KB
    query_memory: int = DEFAULT_QUERY_MEMORY_GB * GB
    query_seconds: float = DEFAULT_QUERY_MINUTES * 60

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Raises LimitError for a setting that is not a number above 0."""
        environment = os.environ if environment is None else environment
        file = number_above_0(environment, MAX_FILE_GB)
        line = number_above_0(environment, MAX_LINE_KB) or DEFAULT_LINE_KB
        memory = number_above_0(environment, QUERY_MEMORY_GB) or DEFAULT_QUERY_MEMORY_GB
        minutes = number_above_0(environment, QUERY_MINUTES) or DEFAULT_QUERY_MINUTES
        return cls(
            None if file is None else int(file * GB), int(line * KB), int(memory * GB), minutes * 60
        )

    @property
    def cell_bytes(self) -> int:
        return self.line_bytes // CELLS_OF_A_LINE

    @property
    def download_bytes(self) -> int:
        return self.file_bytes if self.file_bytes is not None else MOST_BY_DEFAULT

    def unfolded_bytes(self, packed: int) -> int:
        """The most that a file of `packed` bytes may unfold to."""
        if self.file_bytes is not None:
            return self.file_bytes
        return min(MOST_BY_DEFAULT, max(ALWAYS_ALLOWED, TIMES_LARGER * packed))

    def check(self, unfolded: int, packed: int) -> None:
        """Raise LimitError where this is too much."""
        if unfolded > (most := self.unfolded_bytes(packed)):
            raise self._too_much(f"{unfolded} bytes from {packed}, more than the {most}")

    def within(self, chunks: Iterable[bytes], packed: int) -> Iterator[bytes]:
        """The same chunks, until they are too much: then LimitError."""
        size, most = 0, self.unfolded_bytes(packed)
        for chunk in chunks:
            size += len(chunk)
            if size > most:
                raise self.stopped(packed)
            yield chunk

    def stopped(self, packed: int) -> LimitError:
        """The error of a file that is unpacked until the limit, and goes on."""
        most = self.unfolded_bytes(packed)
        return self._too_much(f"more than the {most} bytes from {packed}")

    def check_twice(self, start: bytes, unfolded: int, packed: int) -> None:
        """Raise LimitError where the outer layer of what is compressed twice hides how much there
        is; `start` is what the outer one unpacks to."""
        twice = start.startswith((GZIP, ZSTD, ZIP, PARQUET))
        if self.file_bytes is None and twice and unfolded > TIMES_LARGER_TWICE * packed:
            raise self._too_much(
                f"a compressed file, {unfolded} bytes from {packed}, more than what"
            )

    def check_line(self, length: int, place: str) -> None:
        if length > self.line_bytes:
            raise LimitError(
                f"{place} is longer than {self.line_bytes / KB:g} KB: fix the file, or set"
                f" {MAX_LINE_KB} if that is real data"
            )

    def check_parquet(self, rows: int, uncompressed: int, packed: int) -> None:
        """By what the footer says, before a row is read."""
        if max(uncompressed, rows * BYTES_OF_A_ROW) > self.unfolded_bytes(packed):
            raise self._too_much(
                f"{rows} rows ({uncompressed} bytes) from {packed}, more than what"
            )

    def _too_much(self, what: str) -> LimitError:
        return LimitError(
            f"it would unfold to {what} that {MAX_FILE_GB} allows: if it is real data, set it"
            " higher, or unpack the file yourself"
        )


def number_above_0(environment: Mapping[str, str], name: str) -> float | None:
    """The setting, or None where it is not set. Raises LimitError."""
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
