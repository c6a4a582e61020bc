"""Parquet files that say what they are: a table written piece by piece, and read from its end."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec_dagster.object_store import ObjectStore

# The key of Parquet's own metadata under which a table says what it is, as a JSON object.
ABOUT = "batchrec"

# A put of S3's takes 5 GB. A larger table is several files of about this size.
MAX_BYTES = 4_000_000_000

# A footer is nearly always within so many bytes.
FOOTER = 64 * 1024


class TableFiles:
    """Writes a table as one Parquet file in a folder, or past `max_bytes` as several of that size.

    What the table says of itself may be known last: all files get it when they are ended.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.paths: list[Path] = []
        self._folder, self._max_bytes = folder, max_bytes
        self._open = ExitStack()
        self._writers: list[pq.ParquetWriter] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def write(self, rows: pa.Table) -> None:
        """Add rows; all have the same columns."""
        if not self.paths or self.paths[-1].stat().st_size >= self._max_bytes:
            self.paths.append(self._folder / f"part-{len(self.paths):05}.parquet")
            writer = pq.ParquetWriter(self.paths[-1], rows.schema, compression="zstd")
            self._writers.append(self._open.enter_context(writer))
        self._writers[-1].write_table(rows)

    def end(self, about: Mapping[str, Any]) -> None:
        """No more rows; `about` is what the table says of itself."""
        for writer in self._writers:
            writer.add_key_value_metadata({ABOUT: json.dumps(about)})
        self._open.close()


def told_by(file: Path | IO[bytes]) -> dict[str, Any]:
    """What a table says of itself; empty where it says nothing."""
    told: dict[str, Any] = json.loads(
        (pq.read_metadata(file).metadata or {}).get(ABOUT.encode(), "{}")
    )
    return told


def told_in(store: ObjectStore, uri: str) -> dict[str, Any]:
    """The same, of a table in the storage, of which only the end is read, in one piece."""
    end = store.tail(uri, FOOTER)
    # A Parquet file ends in its footer, the footer's length and four letters.
    if (length := int.from_bytes(end[-8:-4], "little") + 8) > len(end):
        end = store.tail(uri, length)
    return told_by(io.BytesIO(end))
