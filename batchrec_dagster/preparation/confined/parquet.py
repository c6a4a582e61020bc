"""The rewriting of foreign Parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchrec_dagster.preparation.sources.limits import BYTES_OF_A_ROW, Limits

# The number of rows that are unpacked at a time. It is small, so that a long cell that repeats in
# each row does not need much memory.
BATCH_ROWS = 16_384
# The size of a row group in bytes. Each column is buffered until its row group is complete.
ROW_GROUP_BYTES = 64 * 1024 * 1024
# A column of text stores each distinct text once, up to this many bytes of distinct texts. Most
# Parquet files store texts in this way.
DICTIONARY_BYTES = 16 * 1024 * 1024


def rewrite_parquet(path: Path, target: Path, limits: Limits, packed: int) -> None:
    """Write the rows to a new file that states its sizes truthfully.

    Numbers are written plainly, so that the size of the file is the size of the data. A text that
    repeats is written once.

    packed: the size in bytes of the file as it came.

    Raises LimitError if the rows take more bytes than a file of `packed` bytes may unpack to.
    """
    rows = 0
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        with pq.ParquetWriter(
            target,
            schema,
            compression="none",
            use_dictionary=[field.name for field in schema if _is_text(field.type)],
            dictionary_pagesize_limit=DICTIONARY_BYTES,
            write_statistics=False,
        ) as writer:
            # Threads would unpack several columns of a row group into memory at once.
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                rows += batch.num_rows
                limits.require_size(rows * BYTES_OF_A_ROW, packed)
                waiting.append(batch)
                if sum(batch.nbytes for batch in waiting) > ROW_GROUP_BYTES:
                    writer.write_table(pa.Table.from_batches(waiting, schema))
                    waiting = []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, schema))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )
