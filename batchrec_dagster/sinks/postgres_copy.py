"""Rows into a PostgreSQL table by COPY, a batch at a time."""

from __future__ import annotations

import io
from collections.abc import Iterator

import polars as pl
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from batchrec_dagster.sinks.sink import batches

READ_SIZE = 2**20


def copy(cursor: Cursor, frame: pl.LazyFrame, table: sql.Identifier) -> None:
    """Copy the rows into columns of the same names of a table that this transaction has made."""
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.collect_schema().names()))
    statement = sql.SQL("COPY {} ({}) FROM STDIN WITH (FREEZE)").format(table, columns)
    source = _Source(copy_lines(frame))
    try:
        cursor.copy_expert(statement, source, size=READ_SIZE)
    except psycopg2.Error:
        # psycopg2 makes an error of its own of the source's, an interrupt among them.
        if source.failed is not None:
            raise source.failed from None
        raise


def copy_lines(frame: pl.LazyFrame) -> Iterator[bytes]:
    """The rows in COPY's text format, in which nothing but the backslash is special."""
    text = pl.col(pl.String).str.replace_many(
        ["\\", "\t", "\n", "\r"], ["\\\\", "\\t", "\\n", "\\r"]
    )
    for batch in batches(frame.with_columns(text)):
        yield batch.write_csv(
            separator="\t", quote_style="never", null_value="\\N", include_header=False
        ).encode()


class _Source(io.RawIOBase):
    """Pieces of bytes, as a file that COPY reads; `failed` is what kept it from going on."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")
        self.failed: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
        except BaseException as error:
            self.failed = error
            raise
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)
