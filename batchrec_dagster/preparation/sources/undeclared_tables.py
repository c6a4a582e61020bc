"""Refuses to read the files of a table of Delta Lake, Iceberg or Hudi as if they were loose files.

A row that was deleted or changed stays in the old files of a table until they are vacuumed. If they
were read as loose Parquet, a user who was erased would be there again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from batchrec_dagster.preparation.layout import TableFormat
from batchrec_dagster.preparation.sources.errors import FileError

# For each kind of table: what messages call it, the folder of its log, and the names of its files.
DELTA, ICEBERG, HUDI = "a Delta table", "an Iceberg table", "a Hudi table"
LOGS = (
    (DELTA, "_delta_log", r".*\.(?:json|parquet)"),
    (ICEBERG, "metadata", r".*\.metadata\.json(?:\.gz)?"),
    (HUDI, ".hoodie", r".*"),
)
FORMATS: dict[str, TableFormat] = {DELTA: "delta", ICEBERG: "iceberg"}
# How many folders are searched for a table's log, from the declared one upwards. The declared one
# may be a partition of the table, such as a day's.
LEVELS = 4


def refuse_undeclared_table(paths: Iterable[str]) -> None:
    """Raise FileError if a folder looks like a table's.

    paths: the paths of all its files, from the folder.

    Only the declaration makes a table of a folder, since anyone who can put a file into it could
    otherwise choose how its files are read.
    """
    for path in map(PurePosixPath, paths):
        for kind, log, names in LOGS:
            if str(path.parent) == log and re.fullmatch(names, path.name):
                if kind == HUDI:
                    raise _build_table_error("", kind)
                table_format = FORMATS[kind]
                raise FileError(
                    f"it looks like {kind} ({path}). If it is one, write format: {table_format}"
                    f" next to its source (batchrec new: --format {table_format}). If it is not,"
                    " take that file out of the folder"
                )


def refuse_tables(files: Iterable[str], all_files: Iterable[str]) -> None:
    """Raise FileError if any of the files is in a table.

    files: the paths of the files that are read.
    all_files: the paths of all files in the same folder.
    """
    tables = {}
    for path in map(PurePosixPath, all_files):
        for kind, log, names in LOGS:
            if path.parent.name == log and re.fullmatch(names, path.name):
                tables[path.parent.parent] = kind
    for file in files if tables else ():
        for folder in PurePosixPath(file).parents:
            if folder in tables:
                raise _build_table_error(str(folder).removeprefix("."), tables[folder])


def refuse_table_above(folder: str, names_in: Callable[[str], Iterable[str]]) -> None:
    """Raise FileError if this folder or one above it is a table.

    names_in: gives the names of the files in a folder; none if there is no such folder.
    """
    for _ in range(LEVELS):
        for kind, log, names in LOGS:
            if any(re.fullmatch(names, name) for name in names_in(f"{folder}/{log}")):
                raise _build_table_error(folder, kind)
        folder, slash, _ = folder.rpartition("/")
        if not slash or folder.endswith(("/", ":")) or not folder:
            return


def _build_table_error(folder: str, kind: str) -> FileError:
    where = f"the folder {folder}" if folder else "it"
    fix = (
        "write its current rows as Parquet to a folder of their own, and set that as the source"
        if kind == HUDI
        else "set the table's folder as the source, without a pattern, with format:"
        f" {FORMATS[kind]}, and choose its rows by interactions.filter or ratings.query"
    )
    return FileError(f"{where} is {kind}, whose files hold deleted and replaced rows too: {fix}")
