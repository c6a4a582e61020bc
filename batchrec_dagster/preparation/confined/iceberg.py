"""Jobs of the child process: the current rows of an Iceberg table.

The metadata are parsed as data. A table's properties can choose classes to import and servers to
connect to, so only those are kept that name its columns. All files are opened by `_TableFiles`,
which asks the parent for each of them.
Source: iceberg.apache.org/spec
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from batchrec_dagster.preparation.confined.child import ConfinedJob
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.formats import GZIP

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import FileScanTask, Table

KEPT_PROPERTIES = {"schema.name-mapping.default"}


def describe_iceberg(job: ConfinedJob, metadata: str) -> str:
    """The table's id and current snapshot.

    metadata: the newest metadata file, as a path from the table's folder.
    """
    content = _read_metadata(job, metadata)
    return f"{content.get('table-uuid')} {content.get('current-snapshot-id')}"


def read_iceberg(job: ConfinedJob, metadata: str, target: str) -> None:
    """Write the current rows as Parquet.

    metadata: as in `describe_iceberg`.
    target: the path to write to.
    """
    try:
        from pyiceberg.io.pyarrow import schema_to_pyarrow
    except ImportError as error:
        raise FileError("to read it, pip install 'batchrec-dagster[lake]'") from error
    from batchrec_dagster.preparation.confined.parquet import write_parquet

    table = _open_table(job, metadata)
    tasks = list(table.scan().plan_files())
    locations = {task.file.file_path for task in tasks}
    locations |= {deleted.file_path for task in tasks for deleted in task.delete_files}
    packed = sum(path.stat().st_size for path in job.fetch(sorted(locations)))
    job.limit_output(packed)
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    batches = _read_rows(table, tasks, schema)
    write_parquet(batches, schema, Path(target), job.limits, packed, compression="zstd")


def _read_metadata(job: ConfinedJob, metadata: str) -> dict[str, Any]:
    """The metadata file's content, without the properties that are not kept."""
    (path,) = job.fetch([metadata])
    content = path.read_bytes()
    if content.startswith(GZIP):
        content = gzip.decompress(content)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{metadata} is not JSON: copy the table again") from error
    if not isinstance(parsed, dict):
        raise FileError(f"{metadata} is not the metadata of a table: copy the table again")
    properties = parsed.get("properties")
    kept_properties = {}
    if isinstance(properties, dict):
        kept_properties = {
            name: value for name, value in properties.items() if name in KEPT_PROPERTIES
        }
    return {**parsed, "properties": kept_properties}


def _open_table(job: ConfinedJob, metadata: str) -> Table:
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.io import FileIO, InputFile, InputStream
    from pyiceberg.table import Table
    from pyiceberg.table.metadata import TableMetadataUtil

    class _TableFile(InputFile):
        """A file of the table, which the parent checks and fetches."""

        def __len__(self) -> int:
            return self._path().stat().st_size

        def exists(self) -> bool:
            return self._path().is_file()

        def open(self, seekable: bool = True) -> InputStream:
            return self._path().open("rb")

        def _path(self) -> Path:
            (path,) = job.fetch([self.location])
            return path

    class _TableFiles(FileIO):
        """Opens the files of the table, and nothing else."""

        def new_input(self, location: str) -> InputFile:
            return _TableFile(location)

        def new_output(self, location: str) -> NoReturn:
            raise PermissionError("a table that is a source is only read")

        def delete(self, location: Any) -> None:
            raise PermissionError("a table that is a source is only read")

    content = TableMetadataUtil.parse_obj(_read_metadata(job, metadata))
    return Table(("source",), content, metadata, _TableFiles(), NoopCatalog("source"))


def _read_rows(
    table: Table, tasks: list[FileScanTask], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of one file after the other, because several at once would all be in memory."""
    import pyarrow as pa
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan

    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    for task in tasks:
        for batch in scan.to_record_batches([task]):
            yield from pa.Table.from_batches([batch]).cast(schema).to_batches()
