"""Tables of Delta Lake and Iceberg, read as their current snapshot; those of Hudi are refused.

A row that was deleted or changed stays in the old files until they are vacuumed; the table's log
says which files hold. Read as loose Parquet, a user who was erased would be there again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import polars as pl

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import ResultFile, SourceContext

# What the table is called, the folder of its log, and the files of that.
DELTA, ICEBERG, HUDI = "a Delta table", "an Iceberg table", "a Hudi table"
SHOWN = 400
_LOGS = (
    (DELTA, "_delta_log", r".*\.(?:json|parquet)"),
    (ICEBERG, "metadata", r".*\.metadata\.json(?:\.gz)?"),
    (HUDI, ".hoodie", r".*"),
)
# Folders above the declared one that may be the table's, such as of the partition of a day.
LEVELS = 4


_METADATA = re.compile(r"v?(\d+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json(?:\.gz)?")
_HINT = "version-hint.text"
# What pyiceberg calls the options of S3.
_ICEBERG = {
    "aws_endpoint_url": "s3.endpoint",
    "aws_region": "s3.region",
    "aws_access_key_id": "s3.access-key-id",
    "aws_secret_access_key": "s3.secret-access-key",
    "aws_session_token": "s3.session-token",
}


Scan = Callable[[dict[str, str] | None], pl.LazyFrame]


def _result(text: str, version: str, kind: str, address: str, scan: Scan) -> ResultFile:
    """The rows of the table at the address, as of the one snapshot that `version` names. scan:
    from the options of S3."""

    def write(path: Path, context: SourceContext) -> None:
        with _explained(kind), warnings.catch_warnings():
            # Of a faster planner, which is another package.
            warnings.simplefilter("ignore", pl.exceptions.PerformanceWarning)
            scan(_s3_options(address, context)).sink_parquet(path)

    return ResultFile(text, version, "table.parquet", write)


def _scan_delta(folder: str, number: int, options: dict[str, str] | None) -> pl.LazyFrame:
    from deltalake import DeltaTable

    table = DeltaTable(folder, version=number, storage_options=options)
    return pl.scan_delta(table, storage_options=options)


def _scan_iceberg(address: str, options: dict[str, str] | None) -> pl.LazyFrame:
    # A metadata file is never changed.
    return pl.scan_iceberg(address, storage_options=_iceberg(options))


def table_in(
    text: str, folder: str, files: Iterable[str], context: SourceContext
) -> ResultFile | None:
    """The table whose folder this is, None if it is none. `files`: the paths in it of all files.
    Raises FileError."""
    options = _s3_options(folder, context)
    names = [PurePosixPath(path) for path in files]
    for kind, log, pattern in _LOGS:
        found = [n.name for n in names if str(n.parent) == log and re.fullmatch(pattern, n.name)]
        if not found or kind == HUDI:
            continue
        with _explained(kind):
            if kind == DELTA:
                from deltalake import DeltaTable

                table = DeltaTable(folder, storage_options=options)
                number = table.version()
                scan: Scan = partial(_scan_delta, folder, number)
                return _result(text, f"{table.metadata().id} {number}", kind, folder, scan)
            from pyiceberg.table import StaticTable

            hinted = any(str(name) == f"{log}/{_HINT}" for name in names)
            newest = _hinted(found, folder, context) if hinted else _newest(found)
            address = f"{folder}/{log}/{newest}"
            metadata = StaticTable.from_metadata(address, _iceberg(options)).metadata
            version = f"{metadata.table_uuid} {metadata.current_snapshot_id} {newest}"
            scan = partial(_scan_iceberg, address)
            return _result(text, version, kind, address, scan)
    return None


def _newest(metadata: Iterable[str]) -> str:
    """The name of the newest of an Iceberg table's metadata files. Raises FileError."""
    numbers: dict[int, list[str]] = {}
    for name in metadata:
        if number := _METADATA.fullmatch(name):
            numbers.setdefault(int(number[1]), []).append(name)
    last = sorted(numbers[max(numbers)]) if numbers else []
    if len(last) != 1:
        raise FileError(
            f"its metadata folder does not say which of {', '.join(last) or 'its files'} is"
            " current, only its catalog does: write the current rows to a folder of their own"
        )
    return last[0]


def _hinted(metadata: Iterable[str], folder: str, context: SourceContext) -> str:
    """The metadata file that the hint of a table without a catalog names."""
    hint = f"{folder}/metadata/{_HINT}"
    text = context.store.get(hint) if hint.startswith("s3://") else Path(hint).read_bytes()
    number = text.decode(errors="replace").strip()
    return _newest(
        n for n in metadata if n.startswith((f"v{number}.", f"{number}-")) or n == number
    )


def _s3_options(address: str, context: SourceContext) -> dict[str, str] | None:
    return context.store.s3_options() if address.startswith("s3://") else None


def _iceberg(options: Mapping[str, str] | None) -> dict[str, str]:
    given = options or {}
    return {name: given[key] for key, name in _ICEBERG.items() if key in given}


@contextmanager
def _explained(kind: str) -> Iterator[None]:
    """Make a FileError of everything that the libraries raise, which share no kind of error."""
    try:
        yield
    except FileError:
        raise
    except ImportError as error:
        raise FileError(
            f"it is {kind}: to read its current rows, pip install 'batchrec-dagster[lake]'"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:SHOWN]
        raise FileError(f"it is {kind} that cannot be read: {reason}") from error


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
    fix = (
        "write its current rows as Parquet to a folder of their own, and set that as the source"
        if kind == HUDI
        else "set the table's folder as the source, without a pattern, and choose its rows by"
        " interactions.filter or ratings.query"
    )
    return FileError(f"{where} is {kind}, whose files hold deleted and replaced rows too: {fix}")
