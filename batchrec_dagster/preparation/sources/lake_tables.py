"""Tables of Delta Lake, Iceberg and Hudi, which are more than the files in their folder.

A row that was deleted or changed stays in the old files until they are vacuumed; the table's log
says which files hold. Read as loose Parquet, a user who was erased would be there again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from batchrec_dagster.preparation.sources.source import FileError

# What the table is called, the folder of its log, and the files of that.
_LOGS = (
    ("a Delta table", "_delta_log", r".*\.(?:json|parquet)"),
    ("an Iceberg table", "metadata", r".*\.metadata\.json(?:\.gz)?"),
    ("a Hudi table", ".hoodie", r".*"),
)
# Folders above the declared one that may be the table's, such as of the partition of a day.
LEVELS = 4


def refuse_tables(files: Iterable[str], there: Iterable[str]) -> None:
    """Raise FileError if any of the files is in a table; both are paths, and `there` are all files
    in the same folder."""
    tables = {}
    for path in map(PurePosixPath, there):
        for kind, log, names in _LOGS:
            if path.parent.name == log and re.fullmatch(names, path.name):
                tables[path.parent.parent] = kind
    for file in files if tables else ():
        for folder in PurePosixPath(file).parents:
            if folder in tables:
                raise _refusal(str(folder).removeprefix("."), tables[folder])


def refuse_table_above(folder: str, names_in: Callable[[str], Iterable[str]]) -> None:
    """Raise FileError if this folder or one above it is a table. `names_in` gives the names of the
    files in a folder, none where there is no such folder."""
    for _ in range(LEVELS):
        for kind, log, names in _LOGS:
            if any(re.fullmatch(names, name) for name in names_in(f"{folder}/{log}")):
                raise _refusal(folder, kind)
        folder, slash, _ = folder.rpartition("/")
        if not slash or folder.endswith(("/", ":")) or not folder:
            return


def _refusal(folder: str, kind: str) -> FileError:
    where = f"the folder {folder}" if folder else "it"
    return FileError(
        f"{where} is {kind}, whose files hold deleted and replaced rows too: write its current rows"
        " as Parquet to a folder of their own, and set that as the source"
    )
