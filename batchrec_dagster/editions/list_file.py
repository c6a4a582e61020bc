"""The file of a list: a Parquet file that is written piece by piece, with facts in its footer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, TypeVar

import polars as pl
from pydantic import BaseModel

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Model = TypeVar("Model", bound=BaseModel)

# The key of the description in Parquet's metadata. The description is JSON.
FOOTER_KEY = "batchrec"
# The number of bytes after the footer of a Parquet file. They hold the footer's length and four
# letters.
FOOTER_END_BYTES = 8
# The number of rows that are read at a time.
ROWS_AT_ONCE = 100_000


class ListWriter(ExitStack):
    """A writer of lists to a Parquet file, piece by piece.

    The description of the lists is needed only at the end, for `finish`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows. All calls must have the same columns."""
        if self._writer is None:
            import pyarrow.parquet as pq

            writer = pq.ParquetWriter(self.path, rows.schema, compression="zstd")
            self._writer = self.enter_context(writer)
        self._writer.write_table(rows)

    def finish(self, description: BaseModel) -> None:
        """Close the file. `write` must have been called, if only with a table without rows."""
        assert self._writer is not None
        self._writer.add_key_value_metadata({FOOTER_KEY: description.model_dump_json()})
        self.close()


def read_footer(file: Path | IO[bytes], model: type[Model]) -> Model:
    """Return the description in the file's footer.

    Raises ValueError if there is no description, or if it does not fit the model.
    """
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(file).metadata or {}
    return model.model_validate_json(metadata.get(FOOTER_KEY.encode(), b""))


def read_footer_length(end: bytes) -> int:
    """Return the length in bytes of a Parquet file's footer.

    The length includes the length field itself and the four letters after it.

    end: at least the last 8 bytes of the file.
    """
    return int.from_bytes(end[-8:-4], "little") + FOOTER_END_BYTES


def rewrite(
    file: BinaryIO,
    target: ListWriter,
    subject: str,
    change: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    """Write the rows of a file of lists to another file, changed piece by piece.

    subject: the column with the ids that the lists are for.
    change: returns the new rows of a piece. A piece has all rows of its lists. The function must
        keep the columns.
    """
    import pyarrow.parquet as pq

    source = pq.ParquetFile(file)
    metadata = {
        key: value
        for key, value in (source.schema_arrow.metadata or {}).items()
        if key != FOOTER_KEY.encode()
    }
    schema = source.schema_arrow.with_metadata(metadata)
    for rows in _iterate_pieces(source, subject):
        target.write(change(rows).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema))


def _iterate_pieces(source: pq.ParquetFile, subject: str) -> Iterator[pl.DataFrame]:
    """Yield the rows in order, in pieces of whole lists. There is at least one piece."""
    unfinished_list = pl.DataFrame(source.schema_arrow.empty_table())
    for group in range(source.num_row_groups):
        # An iterator over all groups would keep in memory the data of all groups that it has read.
        for batch in source.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
            rows = pl.concat([unfinished_list, pl.DataFrame(batch)])
            ids = rows.get_column(subject)
            # The last list may go on in the next batch.
            is_last = ids.eq_missing(ids[-1]) if len(ids) else ids.is_null()
            unfinished_list = rows.filter(is_last)
            yield rows.filter(~is_last)
    yield unfinished_list
