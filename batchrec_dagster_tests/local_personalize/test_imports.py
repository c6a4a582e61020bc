"""Errors in imported data name the file and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore, StorageError
from batchrec_dagster_tests.guard.servers.personalize import (
    Local,
    Row,
    build_taste_rows,
    encode_csv,
)
from batchrec_dagster_tests.texts import assert_texts

FILE = "s3://data/interactions.csv"
HEADER = b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n"
GOOD = encode_csv(build_taste_rows())


def _replace_line(number: int, line: bytes) -> bytes:
    lines = GOOD.splitlines(keepends=True)
    lines[number - 1] = line + b"\n"
    return b"".join(lines)


def _import_and_fail(local: Local, data: bytes, **options: str) -> str:
    local.store.put(FILE, data)
    dataset = local.create_dataset(local.create_group())
    failed_job = local.wait(local.start_import(dataset, FILE, **options))
    assert failed_job["status"] == "CREATE FAILED"
    assert not list((local.root / "home" / "datasets").iterdir())
    reason: str = failed_job["failureReason"]
    return reason


# What is wrong with a file, the line that the reason names, and the file.
BAD_FILES: dict[str, tuple[int | None, bytes]] = {
    "empty": (None, b""),
    "missing column": (None, GOOD.replace(HEADER, b"USER_ID,TIMESTAMP,EVENT_TYPE\n")),
    "a column twice": (1, GOOD.replace(HEADER, b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,ITEM_ID\n")),
    "text in a number": (7, _replace_line(7, b"u1,i1,yesterday,watch")),
    "empty number": (8, _replace_line(8, b"u1,i1,,watch")),
    "empty user": (9, _replace_line(9, b",i1,1600000000,watch")),
    "empty item in quotes": (10, _replace_line(10, b'u1,"",1600000000,watch')),
    "a line break within a cell counts": (
        13,
        _replace_line(11, b'"u\n1",i1,1600000000,watch\nu2,i2,x,watch'),
    ),
    "latin-1": (1001, _replace_line(1001, b"u1,caf\xe9,1600000000,watch")),
    "latin-1 header": (1, b"USER_ID,ITEM_ID,TIMESTAMP,\xe9\n"),
    "too many fields": (12, _replace_line(12, b"u1,i1,1600000000,watch,more")),
    "too long an id": (13, _replace_line(13, b"u" * 257 + b",i1,1600000000,watch")),
    "too few rows": (None, encode_csv(build_taste_rows(999))),
    "a header only": (None, HEADER),
}


@pytest.mark.slow
def test_a_bad_file_is_refused_with_file_and_line(local: Local) -> None:
    texts = []
    dataset = local.create_dataset(local.create_group())
    for number, (problem, (line, data)) in enumerate(BAD_FILES.items()):
        local.store.put(FILE, data)
        failed_job = local.wait(local.start_import(dataset, FILE, f"import-{number}"))
        assert failed_job["status"] == "CREATE FAILED"
        reason = failed_job["failureReason"]
        assert line is None or f"{FILE}, line {line}: " in reason
        texts.append((problem, reason))
    assert not list((local.root / "home" / "datasets").iterdir())
    assert_texts("imports", texts)


def test_event_types_that_are_all_null(local: Local) -> None:
    schema = {
        "type": "record",
        "name": "Interactions",
        "namespace": "com.amazonaws.personalize.schema",
        "fields": [
            {"name": "USER_ID", "type": "string"},
            {"name": "ITEM_ID", "type": "string"},
            {"name": "TIMESTAMP", "type": "long"},
            {"name": "EVENT_TYPE", "type": ["null", "string"]},
        ],
        "version": 1.0,
    }
    arn = local.client.create_schema(name="nullable", schema=json.dumps(schema))["schemaArn"]
    dataset = local.client.create_dataset(
        name="films",
        schemaArn=arn,
        datasetGroupArn=local.create_group(),
        datasetType="interactions",
    )["datasetArn"]
    local.wait_until_active(dataset)
    local.store.put(FILE, GOOD.replace(b",watch", b","))
    failed_job = local.wait(local.start_import(dataset, FILE))
    assert failed_job["failureReason"] == (
        "All values in the event_type column are either reserved keywords or null"
    )


def test_the_second_of_two_files_is_named(local: Local) -> None:
    local.store.put("s3://data/parts/1.csv", GOOD)
    local.store.put("s3://data/parts/2.csv", _replace_line(3, b"u1,i1,1.5,watch"))
    dataset = local.create_dataset(local.create_group())
    failed_job = local.wait(local.start_import(dataset, "s3://data/parts/"))
    assert failed_job["failureReason"] == (
        "s3://data/parts/2.csv, line 3: TIMESTAMP must be of type long, but it is '1.5'."
    )


@pytest.mark.parametrize("location", ["s3://data/nothing.csv", "s3://data/nothing/"])
def test_a_location_without_data(local: Local, location: str) -> None:
    dataset = local.create_dataset(local.create_group())
    failed_job = local.wait(local.start_import(dataset, location))
    assert failed_job["status"] == "CREATE FAILED"
    assert failed_job["failureReason"] == f"Invalid Data location. There is no object at {location}"


class _Forbidden(ObjectStore):
    def head(self, uri: str) -> ObjectInfo | None:
        raise StorageError(f"cannot read {uri}: permission denied; allow s3:GetObject on it")


def test_data_without_read_permission(tmp_path: Path) -> None:
    local = Local(tmp_path)
    local.store = _Forbidden()
    local.client = local.open_client()
    failed_job = local.wait(local.start_import(local.create_dataset(local.create_group()), FILE))
    assert failed_job["failureReason"].startswith(
        "Insufficient privileges for accessing data in Amazon S3."
    )
    assert FILE in failed_job["failureReason"]


def test_columns_are_matched_by_name(local: Local) -> None:
    """The columns may have any order. Others are ignored, even two of one name."""
    csv_lines = [b"RATING,TIMESTAMP,ITEM_ID,RATING,EVENT_TYPE,USER_ID,\n"]
    for line in GOOD.splitlines()[1:]:
        user, item, time, event = line.split(b",")
        csv_lines.append(b",".join([b"5", time, item, b"x", event, user, b"\n"]))
    local.store.put("s3://data/mixed.csv", b"".join(csv_lines))
    local.store.put(FILE, GOOD)
    dataset = local.create_dataset(local.create_group())
    frames = []
    for uri, name in (("s3://data/mixed.csv", "mixed"), (FILE, "sorted")):
        local.wait_until_active(local.start_import(dataset, uri, name))
        (rows,) = (local.root / "home" / "datasets").glob(f"*.{name}.*/rows.parquet")
        frames.append(pl.read_parquet(rows))
    assert frames[0].equals(frames[1])


def test_a_bad_cell_is_found_after_an_ignored_column_with_a_line_break(local: Local) -> None:
    rows = [line + b',"a\nb"' for line in GOOD.splitlines()[1:]]
    rows[2] = b"u1,i1,x,watch,c"
    data = HEADER.strip() + b",NOTE\n" + b"\n".join(rows)
    reason = f"{FILE}, line 6: TIMESTAMP must be of type long, but it is 'x'."
    assert _import_and_fail(local, data) == reason


def test_an_empty_marker_of_success_is_passed_over(local: Local) -> None:
    """Spark writes it next to its files."""
    local.store.put("s3://data/parts/_SUCCESS", b"")
    dataset = local.create_dataset(local.create_group())
    failed_job = local.wait(local.start_import(dataset, "s3://data/parts/"))
    assert failed_job["failureReason"] == (
        "Invalid Data location. There is no data at s3://data/parts/"
    )
    local.store.put("s3://data/parts/part-0.csv", GOOD)
    local.wait_until_active(local.start_import(dataset, "s3://data/parts/", "second"))


def test_the_names_of_jobs_are_free_when_their_dataset_is_gone(local: Local) -> None:
    local.store.put(FILE, GOOD)
    group = local.create_group()
    first = local.create_dataset(group)
    job = local.wait_until_active(local.start_import(first, FILE, "nightly"))
    local.client.delete_dataset(datasetArn=first)
    local.wait_until_gone(first)
    local.wait_until_gone(job)
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    dataset_answer = local.client.create_dataset(
        name="films", schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
    )
    local.wait_until_active(
        local.start_import(local.wait_until_active(dataset_answer["datasetArn"]), FILE, "nightly")
    )


def test_the_first_import_must_be_full(local: Local) -> None:
    local.store.put(FILE, GOOD)
    dataset = local.create_dataset(local.create_group())
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="the first import must have importMode FULL"):
        local.start_import(dataset, FILE, importMode="INCREMENTAL")
    local.start_import(dataset, FILE)
    local.wait_until_active(local.start_import(dataset, FILE, "more", importMode="INCREMENTAL"))


def test_event_types_and_optional_columns_are_ten_at_most(local: Local) -> None:
    rows = encode_csv(build_taste_rows(), event_type=None).splitlines()[1:]
    data = [b"%s,type%d" % (row, number % 10) for number, row in enumerate(rows)]
    assert _import_and_fail(local, HEADER + b"\n".join(data)) == (
        "Create failed. The data has 10 event types and the schema 1 optional columns"
        " (EVENT_TYPE); 10 at most are allowed together."
    )
    local.store.put(FILE, (HEADER + b"\n".join(data)).replace(b"type9", b"type8"))
    (dataset,) = local.client.list_datasets()["datasets"]
    local.wait_until_active(local.start_import(dataset["datasetArn"], FILE, "nine"))
    replaced_types = (
        (HEADER + b"\n".join(data)).replace(b"type9", b"other").replace(b"type8", b"other")
    )
    local.store.put(FILE, replaced_types)
    incremental_job = local.wait(
        local.start_import(dataset["datasetArn"], FILE, "more", importMode="INCREMENTAL")
    )
    assert "The data has 10 event types" in incremental_job["failureReason"]


def test_csv_from_spreadsheets_is_read(local: Local) -> None:
    """A byte order mark, CRLF, quoted cells, no newline at the end."""
    text = GOOD.replace(b"\n", b"\r\n").replace(b"u1,", b'"u1",').rstrip()
    local.store.put(FILE, b"\xef\xbb\xbf" + text)
    group = local.create_group()
    local.wait_until_active(local.start_import(local.create_dataset(group), FILE))
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-user-personalization"))
    )
    assert len(local.recommend(version, ["u1"], numResults=100)["u1"]) == 40


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param(
            [(f"u{n}", "i1", n) for n in range(1000)] + [(f"u{n}", "i2", n) for n in range(24)],
            "Create failed. Dataset has fewer than 25 users with at least 2 interactions each.",
            id="24 users",
        ),
        pytest.param(
            [(f"u{n}", "i1", n) for n in range(2501)] + [(f"u{n}", "i2", n) for n in range(25)],
            "Create failed. Fewer than 1 % of the users have at least 2 interactions each.",
            id="less than 1 %",
        ),
    ],
)
def test_too_little_data_to_train_on(local: Local, rows: list[Row], reason: str) -> None:
    group, _ = local.import_rows(rows)
    failed_version = local.wait(local.create_version(local.create_solution(group)))
    assert failed_version["status"] == "CREATE FAILED"
    assert failed_version["failureReason"] == reason


def test_too_few_selected_events_to_train_on(local: Local) -> None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, eventType="buy")
    failed_version = local.wait(local.create_version(solution))
    assert failed_version["failureReason"] == (
        "Create failed. Dataset has 0 interactions to train on, fewer than 1000."
    )


def test_a_dataset_without_data_cannot_be_trained_on(local: Local) -> None:
    group = local.create_group()
    dataset = local.create_dataset(group)
    failed_version = local.wait(local.create_version(local.create_solution(group)))
    assert (
        failed_version["failureReason"]
        == f"Create failed. {dataset} has no data: import some first."
    )


def test_a_schema_that_cannot_be_used_says_why(local: Local) -> None:
    def build_schema(*fields: dict[str, object], name: str = "Interactions") -> str:
        return json.dumps(
            {
                "type": "record",
                "name": name,
                "namespace": "com.amazonaws.personalize.schema",
                "fields": fields,
            }
        )

    user: dict[str, object] = {"name": "USER_ID", "type": "string"}
    item: dict[str, object] = {"name": "ITEM_ID", "type": "string"}
    for text, reason in (
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        (build_schema(user, item), "lacks the required field TIMESTAMP"),
        (build_schema(user, item, {"name": "TIMESTAMP", "type": "string"}), "must be of type long"),
        (build_schema(user, user), "differ only in case or underscores"),
        (build_schema(user, name="Users"), "at least one metadata field"),
        (build_schema(user, {"name": "AGE", "type": "date"}, name="Users"), "type 'date'"),
        (build_schema(user, {"name": "A B", "type": "int"}, name="Users"), "letters, digits"),
    ):
        with pytest.raises(local.client.exceptions.InvalidInputException, match=reason):
            local.client.create_schema(name="films", schema=text)
    assert local.client.list_schemas()["schemas"] == []


ITEM_FIELDS: list[dict[str, Any]] = [
    {"name": "ITEM_ID", "type": "string"},
    {"name": "GENRES", "type": ["null", "string"], "categorical": True},
    {"name": "DESCRIPTION", "type": ["string", "null"], "textual": True},
    {"name": "PRICE", "type": ["float", "null"]},
    {"name": "YEAR", "type": "int"},
    {"name": "NEW", "type": "boolean"},
    {"name": "CREATION_TIMESTAMP", "type": "long"},
]


def _import_items(local: Local, text: str, fields: Any = ITEM_FIELDS) -> dict[str, Any]:
    """The import job of this CSV text of items, once it has ended."""
    schema = {
        "type": "record",
        "name": "Items",
        "namespace": "com.amazonaws.personalize.schema",
        "fields": fields,
        "version": "1.0",
    }
    arn = local.client.create_schema(name="items", schema=json.dumps(schema))["schemaArn"]
    dataset_answer = local.client.create_dataset(
        name="items", schemaArn=arn, datasetGroupArn=local.create_group(), datasetType="Items"
    )
    dataset = local.wait_until_active(dataset_answer["datasetArn"])
    header = ",".join(field["name"] for field in fields)
    local.store.put("s3://data/items.csv", f"{header}\n{text}".encode())
    return local.wait(local.start_import(dataset, "s3://data/items.csv"))


def test_items_as_pandas_writes_them(local: Local) -> None:
    """Commas, quotes and line breaks within quotes, empty cells of union types, any case of true.

    One row is enough: only interactions have a least number.
    """
    job = _import_items(
        local,
        'i1,Drama|War,"A ""long"" film,\nin two lines",9.5,1990,True,1600000000\n'
        "i2,,,,1991,false,1600000001\n",
    )
    assert job["status"] == "ACTIVE", job
    (folder,) = (local.root / "home" / "datasets").iterdir()
    first, second = pl.read_parquet(folder / "rows.parquet").rows()
    assert first == (
        "i1",
        "Drama|War",
        'A "long" film,\nin two lines',
        9.5,
        1990,
        True,
        1_600_000_000,
    )
    assert second == ("i2", None, None, None, 1991, False, 1_600_000_001)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",Drama,x,1,1990,True,1", "ITEM_ID is empty"),
        ("i1,Drama,x,cheap,1990,True,1", "PRICE must be of type float, but it is 'cheap'"),
        ("i1,Drama,x,inf,1990,True,1", "PRICE must be of type float, but it is 'inf'"),
        ("i1,Drama,x,1,,True,1", "YEAR is empty"),
        ("i1,Drama,x,1,3000000000,True,1", "YEAR must be of type int, but it is '3000000000'"),
        ("i1,Drama,x,1,1990,yes,1", "NEW must be of type boolean, but it is 'yes'"),
        (f"i1,Drama|{'x' * 1001},x,1,1990,True,1", "GENRES has a value longer than 1000"),
        (f"{'i' * 257},Drama,x,1,1990,True,1", "ITEM_ID is longer than 256 characters"),
    ],
)
def test_a_bad_item_is_refused_with_its_line(local: Local, row: str, reason: str) -> None:
    job = _import_items(local, f"i0,War,x,1,1990,True,1\n{row}\n")
    assert job["status"] == "CREATE FAILED"
    assert job["failureReason"].startswith(f"s3://data/items.csv, line 3: {reason}")


def test_strings_of_items_have_a_greatest_length_unless_textual(local: Local) -> None:
    fields = [
        {"name": "ITEM_ID", "type": "string"},
        {"name": "NOTE", "type": ["null", "string"]},
        {"name": "PLOT", "type": "string", "textual": True},
    ]
    long = "x" * 1001
    job = _import_items(local, f"i0,,{long}\ni1,{long},x\n", fields)
    reason = "s3://data/items.csv, line 3: NOTE is longer than 1000 characters"
    assert job["failureReason"].startswith(reason)


def test_short_rows_lack_their_last_cells(local: Local) -> None:
    fields = [{"name": "ITEM_ID", "type": "string"}, {"name": "NOTE", "type": ["null", "string"]}]
    assert _import_items(local, "i0\ni1,x\ni2\n", fields)["status"] == "ACTIVE"
    (folder,) = (local.root / "home" / "datasets").iterdir()
    rows = pl.read_parquet(folder / "rows.parquet").rows()
    assert rows == [("i0", None), ("i1", "x"), ("i2", None)]
