"""Jobs of the child process: the current rows of a Delta table.

The folder has a copy of the table's log, and then links to the files that the log names. The
library never sees the table's own folder.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec_dagster.preparation.confined.child import ConfinedJob
from batchrec_dagster.preparation.sources.errors import FileError

if TYPE_CHECKING:
    from deltalake import DeltaTable


def list_delta(job: ConfinedJob, folder: str, version: int) -> dict[str, Any]:
    """`files`: the paths from the table's folder of the files that hold current rows; and
    `has_vectors`: whether other files may say which of their rows were deleted."""
    table = _open_table(folder, version)
    paths = [Path(uri) for uri in table.file_uris()]
    return {
        "files": [path.relative_to(folder).as_posix() for path in paths],
        "has_vectors": "deletionVectors" in (table.protocol().reader_features or ()),
    }


def read_delta(job: ConfinedJob, folder: str, version: int, target: str) -> None:
    """Write the current rows as Parquet to the path `target`."""
    import polars as pl

    with warnings.catch_warnings():
        # The warning is about a faster planner, which is another package.
        warnings.simplefilter("ignore", pl.exceptions.PerformanceWarning)
        pl.scan_delta(_open_table(folder, version)).sink_parquet(target)


def _open_table(folder: str, version: int) -> DeltaTable:
    try:
        from deltalake import DeltaTable
    except ImportError as error:
        raise FileError("to read it, pip install 'batchrec-dagster[delta]'") from error
    return DeltaTable(folder, version=version)
