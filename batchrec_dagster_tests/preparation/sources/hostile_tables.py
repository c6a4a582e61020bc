"""Tables of Delta Lake and Iceberg that name files which are not their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyiceberg.table import Table

ROWS = pa.table(
    {
        "user": [str(number % 40) for number in range(400)],
        "item": [number % 23 for number in range(400)],
        "ts": [1_500_000_000 + 3600 * number for number in range(400)],
    }
)
# A class that takes commands out of the properties of a table: pyiceberg imports the class that
# `py-io-impl` names, and calls it with these properties.
COMMAND = {"/bin/sh": "", "-c": "", "id > PWNED": "", "py-io-impl": "subprocess.Popen"}
LEVELS = ("manifest-list", "manifest", "data", "delete")


def write_delta(location: str, options: Mapping[str, str] | None = None) -> None:
    """Write a Delta table of ROWS."""
    from deltalake import write_deltalake

    write_deltalake(location, ROWS, storage_options=dict(options) if options else None)


def change_commit(commit: bytes, change: Mapping[str, Any]) -> bytes:
    """The commit with other values in its action `add`."""
    actions = [json.loads(line) for line in commit.splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= change
    return "\n".join(map(json.dumps, actions)).encode()


def write_iceberg(location: str, options: Mapping[str, str] | None = None) -> Table:
    """An Iceberg table of ROWS."""
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("shop", uri="sqlite://", warehouse=location, **(options or {}))
    catalog.create_namespace("shop")
    table = catalog.create_table("shop.orders", ROWS.schema, location=location)
    table.append(ROWS)
    return table


def read_metadata(table: Table) -> dict[str, Any]:
    """The content of the table's current metadata file."""
    with table.io.new_input(table.metadata_location).open() as file:
        content: dict[str, Any] = json.loads(file.read())
    return content


def write_metadata(table: Table, content: Mapping[str, Any]) -> None:
    """Replace the content of the table's current metadata file."""
    with table.io.new_output(table.metadata_location).create(overwrite=True) as file:
        file.write(json.dumps(content).encode())


def point_elsewhere(table: Table, level: str, target: str) -> None:
    """Let the table's metadata name `target` where they name a file of one of LEVELS."""
    metadata = read_metadata(table)
    (snapshot,) = [
        entry
        for entry in metadata["snapshots"]
        if entry["snapshot-id"] == metadata["current-snapshot-id"]
    ]
    if level == "manifest-list":
        snapshot["manifest-list"] = target
    else:
        snapshot["manifest-list"] = _forge_manifest_list(table, level, target)
    write_metadata(table, metadata)


def _forge_manifest_list(table: Table, level: str, target: str) -> str:
    from pyiceberg.manifest import (
        DataFile,
        DataFileContent,
        FileFormat,
        ManifestContent,
        ManifestEntry,
        ManifestEntryStatus,
        write_manifest_list,
    )
    from pyiceberg.typedef import Record

    snapshot = table.current_snapshot()
    assert snapshot is not None
    (manifest,) = snapshot.manifests(table.io)
    manifests = [manifest]
    if level == "manifest":
        manifest[0] = target
    else:
        is_delete = level == "delete"
        entry = ManifestEntry.from_args(
            status=ManifestEntryStatus.ADDED,
            snapshot_id=snapshot.snapshot_id,
            data_file=DataFile.from_args(
                content=DataFileContent.POSITION_DELETES if is_delete else DataFileContent.DATA,
                file_path=target,
                file_format=FileFormat.PARQUET,
                partition=Record(),
                record_count=1,
                file_size_in_bytes=1,
            ),
        )
        content = ManifestContent.DELETES if is_delete else ManifestContent.DATA
        manifests = [*([manifest] if is_delete else []), _write_manifest(table, entry, content)]
    location = f"{table.location()}/metadata/forged-list.avro"
    with write_manifest_list(
        format_version=2,
        output_file=table.io.new_output(location),
        snapshot_id=snapshot.snapshot_id,
        parent_snapshot_id=None,
        sequence_number=1,
        avro_compression="null",
    ) as writer:
        writer.add_manifests(manifests)
    return location


def _write_manifest(table: Table, entry: Any, content: Any) -> Any:
    from pyiceberg.manifest import ManifestWriterV2

    class Writer(ManifestWriterV2):
        def content(self) -> Any:
            return content

        @property
        def _meta(self) -> dict[str, str]:
            return {**super()._meta, "content": content.name.lower()}

    output = table.io.new_output(f"{table.location()}/metadata/forged-manifest.avro")
    snapshot_id = table.metadata.current_snapshot_id
    assert snapshot_id is not None
    with Writer(table.spec(), table.schema(), output, snapshot_id, "null") as writer:
        writer.add_entry(entry)
    return writer.to_manifest_file()
