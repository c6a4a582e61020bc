"""Checks that the Parquet files of an exported home are not bombs: few bytes for very many rows.

Parquet is compressed. As for sources of ratings, what unfolds to far more is not data.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

MAX_FILE_GB = "BATCHREC_MAX_FILE_GB"
"""The environment variable with the gigabytes that a file may unfold to."""

# Without the variable, a file may unfold to this many times its size, or at least to these bytes.
_TIMES_LARGER = 200
_ALWAYS_ALLOWED_BYTES = 100_000_000

_BYTES_OF_A_ROW = 24
"""What a row takes in memory at least: a user, an item and a time."""


class ArchivedRowsError(ValueError):
    """A file is not Parquet, or unfolds to too much."""


def check_parquet(path: Path, name: str) -> None:
    """Raise ArchivedRowsError if the file is not Parquet, or unfolds to more than is allowed.

    name: the file's name in messages.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise ArchivedRowsError(f"{name!r} is not Parquet ({error})") from error
    row_groups = map(footer.row_group, range(footer.num_row_groups))
    column_bytes = sum(group.total_byte_size for group in row_groups)
    unfolded_bytes = max(column_bytes, footer.num_rows * _BYTES_OF_A_ROW)
    packed_bytes = path.stat().st_size
    if unfolded_bytes > _find_max_unfolded(packed_bytes):
        raise ArchivedRowsError(
            f"{name!r} would unfold to {footer.num_rows} rows ({unfolded_bytes} bytes) from"
            f" {packed_bytes}, more than what {MAX_FILE_GB} allows: if it is real data, set it"
            " higher"
        )


def _find_max_unfolded(packed_bytes: int) -> float:
    """Return the bytes that a file of this size may unfold to.

    Raises ArchivedRowsError if the environment variable is not a number above 0.
    """
    text = os.environ.get(MAX_FILE_GB, "").strip()
    if not text:
        return max(_ALWAYS_ALLOWED_BYTES, _TIMES_LARGER * packed_bytes)
    try:
        max_bytes = float(text) * 1e9
    except ValueError:
        max_bytes = math.nan
    if not 0 < max_bytes < math.inf:
        raise ArchivedRowsError(f"{MAX_FILE_GB} is {text!r}: set a number above 0")
    return max_bytes
