"""Delta tables as sources: their current rows, and never a dead file."""

from __future__ import annotations

import base64
import json
import string
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, REGION, S3Server
from batchrec_dagster_tests.preparation.sources.support import Place

if TYPE_CHECKING:
    from deltalake import DeltaTable

ROWS = pa.table({"user": ["a", "b", "c"], "item": [1, 2, 3], "day": ["x", "x", "y"]})
LEFT = [("a", 1, "x"), ("c", 3, "y")]


def read(place: Place, source: str, query: str | None = None) -> tuple[pl.DataFrame, str]:
    """The rows as raw/ gets them, and their version."""
    ratings = RatingsSettings.model_validate({"source": source, "query": query, "format": "delta"})
    (listed_file,) = ratings.rows.files(place.context)
    listed_file.file.copy(place.context, "s3://copies/raw")
    return pl.read_parquet(place.store.get("s3://copies/raw")), listed_file.fingerprint


def read_refusal(place: Place, source: str) -> str:
    with pytest.raises(SourceError) as error:
        read(place, source)
    assert "\n" not in str(error.value)
    return str(error.value)


def create_delta_table(place: Place) -> DeltaTable:
    """Creates a table of three rows, of which one was deleted."""
    # Here and below imported where it is used: each worker collects all tests.
    from deltalake import DeltaTable, write_deltalake

    write_deltalake(str(place.base / "orders"), ROWS, partition_by=["day"])
    table = DeltaTable(str(place.base / "orders"))
    table.delete("user = 'b'")
    return table


@pytest.fixture
def place(place: Place, tmp_path: Path) -> Place:
    place.store.folders["copies"] = tmp_path / "copies"  # type: ignore[index]
    return place


@pytest.mark.parametrize("source", ["orders", "orders/"])
def test_a_deleted_row_is_gone(place: Place, source: str) -> None:
    create_delta_table(place)
    loose = pl.read_parquet(f"{place.base}/orders/**/*.parquet", hive_partitioning=False)
    assert "b" in loose.get_column("user")
    rows, _ = read(place, source)
    assert sorted(rows.rows()) == LEFT
    assert rows.columns == ["user", "item", "day"]


def test_a_new_version_of_delta_is_read(place: Place) -> None:
    table = create_delta_table(place)
    first = read(place, "orders/")[1]
    assert read(place, "orders/")[1] == first
    table.update({"item": "9"}, predicate="user = 'c'")
    rows, second = read(place, "orders/")
    assert second != first
    assert sorted(rows.rows()) == [("a", 1, "x"), ("c", 9, "y")]


def test_rows_of_a_table_can_be_queried(place: Place) -> None:
    create_delta_table(place)
    rows, _ = read(place, "orders/", "SELECT upper(user) AS u FROM source ORDER BY 1")
    assert rows.rows() == [("A",), ("C",)]


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


def test_deletion_vectors_are_obeyed(place: Place) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(place.base / "orders"), ROWS.select(["user", "item"]))
    log = place.base / "orders" / "_delta_log"
    (first,) = log.glob("*.json")
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    (add_action,) = [action["add"] for action in actions if "add" in action]
    # The second row is deleted. Row 1 as a Roaring bitmap of 64 bits in its portable format: one
    # part, whose key is 0, with the cookie of one without runs, one container, and its key, its
    # size less one, its place and the row.
    bitmap = struct.pack("<IQIIIHHIH", DELTA_MAGIC, 1, 0, 12346, 1, 0, 0, 16, 1)
    vector = {
        "storageType": "i",
        "pathOrInlineDv": encode_z85(bitmap),
        "sizeInBytes": len(bitmap),
        "cardinality": 1,
    }
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors"],
    }
    remove_action = {"path": add_action["path"], "deletionTimestamp": 1, "dataChange": True}
    second = [
        {"protocol": protocol},
        {"remove": remove_action},
        {"add": {**add_action, "deletionVector": vector, "dataChange": True}},
    ]
    (log / "00000000000000000001.json").write_text("\n".join(map(json.dumps, second)))
    assert read(place, "orders/")[0].rows() == [("a", 1), ("c", 3)]


def test_without_the_library_it_is_refused_by_name(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create_delta_table(place)
    (tmp_path / "deltalake.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "pip install 'batchrec-dagster[delta]'" in read_refusal(place, "orders/")


def test_a_table_without_its_files_is_refused_by_name(place: Place) -> None:
    create_delta_table(place)
    for path in (place.base / "orders").rglob("*.parquet"):
        path.unlink()
    assert "but a file of it is missing: " in read_refusal(place, "orders/")


def test_a_table_with_a_damaged_file_is_refused_by_name(place: Place) -> None:
    create_delta_table(place)
    for path in (place.base / "orders").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    assert "but it cannot be read (" in read_refusal(place, "orders/")


def test_a_table_in_s3(place: Place, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake import DeltaTable, write_deltalake

    bucket = s3.create_bucket()
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    keys = {"aws_access_key_id": OWNER.access, "aws_secret_access_key": OWNER.secret}
    url = {"aws_endpoint_url": s3.endpoint, "aws_allow_http": "true"}
    options = {**keys, **url, "aws_region": REGION}
    write_deltalake(f"s3://{bucket}/delta", ROWS, storage_options=options)
    DeltaTable(f"s3://{bucket}/delta", storage_options=options).delete("user = 'b'")
    folders = {"copies": place.base.parent / "copies"}
    reader_place = replace(place, store=replace(s3.store(READER), folders=folders))
    rows, _ = read(reader_place, f"s3://{bucket}/delta/")
    assert sorted(rows.rows()) == LEFT
    s3.store().put(f"s3://{bucket}/csv/day=x/1.csv", b"user\na\n")
    query = "SELECT user, day FROM source"
    (listed_file,) = RatingsSettings(source=f"s3://{bucket}/csv/", query=query).rows.files(
        reader_place.context
    )
    listed_file.file.copy(reader_place.context, "s3://copies/raw")
    assert pl.read_parquet(reader_place.store.get("s3://copies/raw")).rows() == [("a", "x")]
