"""Delta and Iceberg tables as sources: their current rows, and never a dead file."""

from __future__ import annotations

import base64
import json
import string
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster_tests.preparation.sources.support import Place
from batchrec_dagster_tests.s3_server import OWNER, READER, REGION, S3Server

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

ROWS = pa.table({"user": ["a", "b", "c"], "item": [1, 2, 3], "day": ["x", "x", "y"]})
LEFT = [("a", 1, "x"), ("c", 3, "y")]


def read(
    place: Place, source: str, query: str | None = None, form: str | None = None
) -> tuple[pl.DataFrame, str]:
    """The rows as raw/ gets them, and their version. form: by default what the folder is."""
    if form is None:
        form = "delta" if (place.base / source / "_delta_log").is_dir() else "iceberg"
    ratings = RatingsSettings.model_validate({"source": source, "query": query, "format": form})
    (listed_file,) = ratings.rows.files(place.context)
    listed_file.file.copy(place.context, "s3://copies/raw")
    return pl.read_parquet(place.store.get("s3://copies/raw")), listed_file.fingerprint


def read_refusal(place: Place, source: str) -> str:
    with pytest.raises(SourceError) as error:
        read(place, source)
    assert "\n" not in str(error.value)
    return str(error.value)


# Here and below imported where it is used: it takes longest of all that tests import, and each
# worker collects all tests.
def open_catalog(warehouse: str, **options: str) -> SqlCatalog:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("shop", uri="sqlite://", warehouse=warehouse, **options)
    catalog.create_namespace("shop")
    return catalog


def create_delta_table(place: Place) -> DeltaTable:
    """Creates a table of three rows, of which one was deleted."""
    from deltalake import DeltaTable, write_deltalake

    write_deltalake(str(place.base / "orders"), ROWS, partition_by=["day"])
    table = DeltaTable(str(place.base / "orders"))
    table.delete("user = 'b'")
    return table


def create_iceberg_table(place: Place) -> Table:
    """Creates a table of three rows, of which one was deleted."""
    catalog = open_catalog(f"file://{place.base}")
    table = catalog.create_table("shop.orders", ROWS.schema, location=f"file://{place.base}/orders")
    table.append(ROWS)
    table.delete("user = 'b'")
    return table


@pytest.fixture
def place(place: Place, tmp_path: Path) -> Place:
    place.store.folders["copies"] = tmp_path / "copies"  # type: ignore[index]
    return place


@pytest.mark.parametrize("make", [create_delta_table, create_iceberg_table])
@pytest.mark.parametrize("source", ["orders", "orders/"])
def test_a_deleted_row_is_gone(place: Place, make: Callable[[Place], object], source: str) -> None:
    make(place)
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


def test_a_new_snapshot_of_iceberg_is_read(place: Place) -> None:
    table = create_iceberg_table(place)
    first = read(place, "orders/")[1]
    assert read(place, "orders/")[1] == first
    table.append(ROWS.slice(1, 1))
    rows, second = read(place, "orders/")
    assert second != first
    assert rows.height == 3


def test_two_newest_metadata_files_are_refused(place: Place) -> None:
    table = create_iceberg_table(place)
    newest = Path(table.metadata_location.removeprefix("file://"))
    other = newest.with_name("00002-ffffffff.metadata.json")
    other.write_bytes(newest.read_bytes())
    assert f"which of {newest.name}, {other.name} is current" in read_refusal(place, "orders/")
    # In a table without a catalog, a hint can say which metadata are current.
    first = newest.with_name("v1.metadata.json")
    first.write_bytes(newest.read_bytes())
    newest.with_name("version-hint.text").write_text("1")
    assert sorted(read(place, "orders/")[0].rows()) == LEFT


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
    from pyroaring import BitMap64

    write_deltalake(str(place.base / "orders"), ROWS.select(["user", "item"]))
    log = place.base / "orders" / "_delta_log"
    (first,) = log.glob("*.json")
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    (add_action,) = [action["add"] for action in actions if "add" in action]
    # The second row is deleted.
    bitmap = struct.pack("<I", DELTA_MAGIC) + BitMap64([1]).serialize()
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


@pytest.mark.parametrize("make", [create_delta_table, create_iceberg_table])
def test_without_the_library_it_is_refused_by_name(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Place], object],
) -> None:
    make(place)
    for module in ("deltalake", "pyiceberg"):
        (tmp_path / f"{module}.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "pip install 'batchrec-dagster[lake]'" in read_refusal(place, "orders/")


@pytest.mark.parametrize("make", [create_delta_table, create_iceberg_table])
def test_a_table_without_its_files_is_refused_by_name(
    place: Place, make: Callable[[Place], object]
) -> None:
    make(place)
    for path in (place.base / "orders").rglob("*.parquet"):
        path.unlink()
    assert "but a file of it is missing: " in read_refusal(place, "orders/")


@pytest.mark.parametrize("make", [create_delta_table, create_iceberg_table])
def test_a_table_with_a_damaged_file_is_refused_by_name(
    place: Place, make: Callable[[Place], object]
) -> None:
    make(place)
    for path in (place.base / "orders").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20])
    assert "but it cannot be read (" in read_refusal(place, "orders/")


def test_tables_in_s3(place: Place, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltalake import DeltaTable, write_deltalake

    bucket = s3.create_bucket()
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    keys = {"aws_access_key_id": OWNER.access, "aws_secret_access_key": OWNER.secret}
    url = {"aws_endpoint_url": s3.endpoint, "aws_allow_http": "true"}
    options = {**keys, **url, "aws_region": REGION}
    write_deltalake(f"s3://{bucket}/delta", ROWS, storage_options=options)
    DeltaTable(f"s3://{bucket}/delta", storage_options=options).delete("user = 'b'")
    catalog = open_catalog(
        f"s3://{bucket}",
        **{"s3.endpoint": s3.endpoint, "s3.region": REGION},
        **{"s3.access-key-id": OWNER.access, "s3.secret-access-key": OWNER.secret},
    )
    location = f"s3://{bucket}/iceberg"
    table = catalog.create_table("shop.orders", ROWS.schema, location=location)
    table.append(ROWS)
    table.delete("user = 'b'")
    folders = {"copies": place.base.parent / "copies"}
    reader_place = replace(place, store=replace(s3.store(READER), folders=folders))
    for name in ("delta", "iceberg"):
        rows, _ = read(reader_place, f"s3://{bucket}/{name}/", form=name)
        assert sorted(rows.rows()) == LEFT
    s3.store().put(f"s3://{bucket}/csv/day=x/1.csv", b"user\na\n")
    query = "SELECT user, day FROM source"
    (listed_file,) = RatingsSettings(source=f"s3://{bucket}/csv/", query=query).rows.files(
        reader_place.context
    )
    listed_file.file.copy(reader_place.context, "s3://copies/raw")
    assert pl.read_parquet(reader_place.store.get("s3://copies/raw")).rows() == [("a", "x")]
