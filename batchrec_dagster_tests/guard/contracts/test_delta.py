"""Tests of Delta tables as sources.

The current rows are read, nothing in a table is executed, and only the table's files are read.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import string
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, REGION, S3Server
from batchrec_dagster_tests.guard.servers.web import Web, serving

pytestmark = pytest.mark.attack

ROWS = pa.table({"user": ["a", "b", "c"], "item": [1, 2, 3], "day": ["x", "x", "y"]})
LEFT = [("a", 1, "x"), ("c", 3, "y")]
# The message about a file outside the folder. An absolute path is read as relative to the folder.
OUTSIDE = "names a file that is not in its folder|a file of it is missing"


@dataclass(frozen=True)
class Table:
    """A table in a folder or in S3, and functions that read and write its files there."""

    base: Path
    """The folder to which relative paths refer."""
    location: str
    """The URI of the table's folder."""
    source: str
    """The table's source in a declaration."""
    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]
    names: Callable[[], list[str]]
    options: dict[str, str] | None
    """The storage options that deltalake needs to reach the table."""

    def create(self, rows: pa.Table = ROWS, **options: Any) -> None:
        # Imported inside functions, because each worker collects all tests.
        from deltalake import write_deltalake

        write_deltalake(self.location, rows, storage_options=self.options, **options)

    @property
    def commit(self) -> str:
        """The name of the last commit's file."""
        return max(name for name in self.names() if name.endswith(".json"))


@pytest.fixture(params=["folder", "S3"])
def table(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Table]:
    base = tmp_path / "project"
    root = base / "orders"
    root.mkdir(parents=True)
    if request.param == "folder":

        def write_file(name: str, content: bytes) -> None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

        yield Table(
            base,
            f"file://{root}",
            "orders/",
            lambda name: (root / name).read_bytes(),
            write_file,
            lambda: [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()],
            None,
        )
        return
    s3: S3Server = request.getfixturevalue("s3")
    bucket, client = s3.create_bucket(), s3.client()
    # The run's credentials may only read.
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)

    def list_names() -> list[str]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="orders/")["Contents"]
        return [found["Key"].removeprefix("orders/") for found in listed]

    yield Table(
        base,
        f"s3://{bucket}/orders",
        f"s3://{bucket}/orders/",
        lambda name: client.get_object(Bucket=bucket, Key=f"orders/{name}")["Body"].read(),
        lambda name, content: client.put_object(Bucket=bucket, Key=f"orders/{name}", Body=content),
        list_names,
        {
            "aws_access_key_id": OWNER.access,
            "aws_secret_access_key": OWNER.secret,
            "aws_endpoint_url": s3.endpoint,
            "aws_allow_http": "true",
            "aws_region": REGION,
        },
    )


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as server:
        yield server


in_folder = pytest.mark.parametrize("table", ["folder"], indirect=True)


def read_rows(table: Table, query: str | None = None) -> pl.DataFrame:
    """Return the rows that a run copies."""
    ratings = {"source": table.source, "format": "delta", "query": query}
    (copy,) = preparation.copy_raw(table.base, ratings)
    return pl.read_parquet(copy.path)


def read_refusal(table: Table) -> str:
    """Return the one-line message that refuses the table, and require that nothing is copied."""
    shutil.rmtree(table.base / "raw", ignore_errors=True)
    with pytest.raises(preparation.UserError) as error:
        read_rows(table)
    assert "\n" not in str(error.value)
    assert not [path for path in table.base.glob("raw/**/*") if path.is_file()]
    return str(error.value)


def change_commit(commit: bytes, change: Mapping[str, Any]) -> bytes:
    """Return the commit with other values in its action `add`."""
    actions = [json.loads(line) for line in commit.splitlines()]
    for action in actions:
        if "add" in action:
            action["add"] |= change
    return "\n".join(map(json.dumps, actions)).encode()


def test_a_deleted_row_is_gone_and_a_changed_one_is_another_version(table: Table) -> None:
    from deltalake import DeltaTable

    table.create(partition_by=["day"])
    delta = DeltaTable(table.location, storage_options=table.options)
    delta.delete("user = 'b'")
    rows = read_rows(table)
    assert sorted(rows.rows()) == LEFT
    assert rows.columns == ["user", "item", "day"]
    ratings = {"source": table.source, "format": "delta"}
    versions = preparation.list_files(table.base, ratings)
    delta.update({"item": "9"}, predicate="user = 'c'")
    assert preparation.list_files(table.base, ratings) != versions
    assert read_rows(table, "SELECT item FROM source ORDER BY 1").rows() == [(1,), (9,)]


# https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format
DELTA_MAGIC = 1681511377
_DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
Z85 = f"{_DIGITS}.-:+=^!/*?&<>()[]{{}}@%$#"
PYTHON85 = (
    f"{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}!#$%&()*+-;<=>?@^_`{{|}}~"
)


def encode_z85(data: bytes) -> str:
    padded_data = data + bytes(-len(data) % 4)
    return base64.b85encode(padded_data).decode().translate(str.maketrans(PYTHON85, Z85))


@in_folder
def test_deletion_vectors_are_obeyed(table: Table) -> None:
    table.create(ROWS.select(["user", "item"]))
    actions = [json.loads(line) for line in table.read(table.commit).splitlines()]
    (add_action,) = [action["add"] for action in actions if "add" in action]
    # The second row is deleted. This is row 1 as a 64-bit Roaring bitmap in the portable format: a
    # single part with key 0, the cookie of a bitmap without runs, a container count of one, and the
    # container's key, size minus one, offset and row.
    bitmap = struct.pack("<IQIIIHHIH", DELTA_MAGIC, 1, 0, 12346, 1, 0, 0, 16, 1)
    vector = {
        **{"storageType": "i", "pathOrInlineDv": encode_z85(bitmap)},
        **{"sizeInBytes": len(bitmap), "cardinality": 1},
    }
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    remove_action = {"path": add_action["path"], "deletionTimestamp": 1, "dataChange": True}
    second = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}},
        {"remove": remove_action},
        {"add": {**add_action, "deletionVector": vector, "dataChange": True}},
    ]
    text = "\n".join(map(json.dumps, second))
    table.write("_delta_log/00000000000000000001.json", text.encode())
    assert read_rows(table).rows() == [("a", 1), ("c", 3)]


@in_folder
def test_a_missing_or_damaged_file_of_a_table_is_named(table: Table) -> None:
    table.create()
    (name,) = [name for name in table.names() if name.endswith(".parquet")]
    table.write(name, table.read(name)[:-20])
    assert "but it cannot be read (" in read_refusal(table)
    (table.base / "orders" / name).unlink()
    assert "but a file of it is missing: " in read_refusal(table)


def name_outside_files(table: Table, web: Web, secret: Path) -> dict[str, str]:
    """Return names of a file outside the table, by the way in which they leave the folder."""
    ways = {
        "a path from the folder": "../secret.parquet",
        "such a path with percent signs": "%2e%2e/secret.parquet",
        "within": "day=1/../../secret.parquet",
        "another folder": f"file://{secret}",
        "a web server": web.url("/secret.parquet"),
        "another bucket": "s3://another/secret.parquet",
        "a path": str(secret),
        "percent signs": f"{table.location}/%2e%2e/secret.parquet",
        "the folder above": f"{table.location}/../secret.parquet",
        "percent signs twice": f"{table.location}/data/%252e%252e/%252e%252e/secret.parquet",
        "a folder with a longer name": f"{table.location}-2/secret.parquet",
    }
    return dict([*ways.items()][: repeats(len(ways), 4)])


def test_a_table_names_no_file_out_of_its_folder(table: Table, web: Web, tmp_path: Path) -> None:
    secret = table.base / "secret.parquet"
    table.create()
    pl.DataFrame({"user": ["secret"], "item": [1], "day": ["x"]}).write_parquet(secret)
    commit = table.commit
    original = table.read(commit)
    for way, name in name_outside_files(table, web, secret).items():
        table.write(commit, change_commit(original, {"path": name}))
        assert re.search(OUTSIDE, read_refusal(table)), way
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    protocol = {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}
    lines = [line for line in original.splitlines() if b'"protocol"' not in line]
    vector = {
        **{"storageType": "p", "pathOrInlineDv": f"file://{tmp_path}/secret.bin"},
        **{"offset": 1, "sizeInBytes": 1, "cardinality": 1},
    }
    with_vectors = b"\n".join([json.dumps(protocol).encode(), *lines])
    table.write(commit, change_commit(with_vectors, {"deletionVector": vector}))
    assert "cannot be read" in read_refusal(table)
    assert web.requests == []
    table.write(commit, original)
    assert len(read_rows(table)) == len(ROWS)


@in_folder
def test_a_checkpoint_names_no_file_out_of_its_folder(table: Table, tmp_path: Path) -> None:
    from deltalake import DeltaTable

    table.create()
    DeltaTable(table.location).create_checkpoint()
    assert len(read_rows(table)) == len(ROWS)
    (name,) = [name for name in table.names() if name.endswith(".checkpoint.parquet")]
    copy = tmp_path / "checkpoint.parquet"
    copy.write_bytes(table.read(name))
    add = pl.col("add")
    outside_add = add.struct.with_fields(
        pl.when(add.struct.field("path").is_not_null())
        .then(pl.lit(f"file://{tmp_path}/secret.parquet"))
        .alias("path")
    )
    changed = pl.read_parquet(copy).with_columns(add=pl.when(add.is_not_null()).then(outside_add))
    changed.write_parquet(copy)
    table.write(name, copy.read_bytes())
    assert re.search(OUTSIDE, read_refusal(table))


@in_folder
def test_a_link_does_not_lead_out_of_a_table(table: Table, tmp_path: Path) -> None:
    table.create()
    root = table.base / "orders"
    log = root / "_delta_log"
    data = next(root.rglob("*.parquet"))
    for linked_path in (data, log, max(log.glob("*.json"))):
        # The content is the same, but the file is outside the folder.
        outside_folder = tmp_path / "elsewhere"
        shutil.move(linked_path, outside_folder)
        linked_path.symlink_to(outside_folder)
        assert "it is a link out of the folder" in read_refusal(table), linked_path
        linked_path.unlink()
        shutil.move(outside_folder, linked_path)
    # A link to another file of the table is harmless.
    data.rename(data.with_name("other.parquet"))
    data.symlink_to(data.with_name("other.parquet"))
    assert len(read_rows(table)) == len(ROWS)


@pytest.mark.parametrize("table", ["S3"], indirect=True)
def test_a_table_that_is_too_large_is_refused(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.create()
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.000001")
    assert "more than the 1000 bytes of BATCHREC_MAX_FILE_GB" in read_refusal(table)


@in_folder
def test_a_table_may_have_file_names_with_percent_signs(table: Table) -> None:
    days = pa.table({"user": ["a", "b"], "day": ["a b/c", "100%"]})
    table.create(days, partition_by=["day"])
    assert sorted(read_rows(table).get_column("day")) == ["100%", "a b/c"]


@in_folder
@pytest.mark.parametrize(
    "damage", [b"{", b"[" * 100_000, b'{"add": {}}', b'{"add": {"path": 7}}', b'{"add": 7}']
)
def test_a_damaged_log_is_one_line(table: Table, damage: bytes) -> None:
    table.write("_delta_log/00000000000000000000.json", damage)
    assert "cannot be read" in read_refusal(table)
