"""Tests of imports into the local Personalize: the rows that count, and errors by file and line.

The lists show the imported rows: the list of a stranger has every item of the data.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.personalize import Films, Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows, encode_csv

pytestmark = pytest.mark.slow

FILE = "s3://data/interactions.csv"
HEADER = b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\n"
ROWS = build_taste_rows()
GOOD = encode_csv(ROWS)


def replace_line(number: int, line: bytes) -> bytes:
    lines = GOOD.splitlines(keepends=True)
    lines[number - 1] = line + b"\n"
    return b"".join(lines)


# The mistake in a file, the line that the reason names, and the file.
BAD_FILES: dict[str, tuple[int | None, bytes]] = {
    "empty": (None, b""),
    "missing column": (None, GOOD.replace(HEADER, b"USER_ID,TIMESTAMP,EVENT_TYPE\n")),
    "a column twice": (1, GOOD.replace(HEADER, b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,ITEM_ID\n")),
    "text in a number": (7, replace_line(7, b"u1,i1,yesterday,watch")),
    "empty number": (8, replace_line(8, b"u1,i1,,watch")),
    "empty user": (9, replace_line(9, b",i1,1600000000,watch")),
    "empty item in quotes": (10, replace_line(10, b'u1,"",1600000000,watch')),
    "a line break within a cell counts": (
        13,
        replace_line(11, b'"u\n1",i1,1600000000,watch\nu2,i2,x,watch'),
    ),
    "latin-1": (1001, replace_line(1001, b"u1,caf\xe9,1600000000,watch")),
    "latin-1 header": (1, b"USER_ID,ITEM_ID,TIMESTAMP,\xe9\n"),
    "too many fields": (12, replace_line(12, b"u1,i1,1600000000,watch,more")),
    "too long an id": (13, replace_line(13, b"u" * 257 + b",i1,1600000000,watch")),
    "too few rows": (None, encode_csv(build_taste_rows(999))),
    "a header only": (None, HEADER),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Local:
    local = Local(tmp_path_factory.mktemp("bad"))
    local.create_dataset(local.create_group())
    return local


@pytest.mark.parametrize("problem", BAD_FILES)
def test_a_bad_file_is_refused_with_file_and_line(bad_files: Local, problem: str) -> None:
    line, data = BAD_FILES[problem]
    bad_files.store.put(FILE, data)
    (dataset,) = bad_files.client.list_datasets()["datasets"]
    name = problem.replace(" ", "-")
    job = bad_files.wait(bad_files.start_import(dataset["datasetArn"], FILE, name))
    assert job["status"] == "CREATE FAILED"
    assert job["failureReason"]
    assert "internal error" not in job["failureReason"]
    assert line is None or f"{FILE}, line {line}: " in job["failureReason"]


def test_the_second_of_two_files_is_named(local: Local) -> None:
    local.store.put("s3://data/parts/1.csv", GOOD)
    local.store.put("s3://data/parts/2.csv", replace_line(3, b"u1,i1,1.5,watch"))
    dataset = local.create_dataset(local.create_group())
    job = local.wait(local.start_import(dataset, "s3://data/parts/"))
    assert "s3://data/parts/2.csv, line 3: " in job["failureReason"]
    assert "TIMESTAMP" in job["failureReason"]
    assert "1.5" in job["failureReason"]


@pytest.mark.parametrize("location", ["s3://data/nothing.csv", "s3://data/nothing/"])
def test_a_location_without_data_is_named(local: Local, location: str) -> None:
    job = local.wait(local.start_import(local.create_dataset(local.create_group()), location))
    assert job["status"] == "CREATE FAILED"
    assert location in job["failureReason"]


def import_and_list(local: Local, data: bytes) -> list[str]:
    """Import this file alone, and return a stranger's list of all items."""
    local.store.put(FILE, data)
    group = local.create_group()
    local.wait_until_active(local.start_import(local.create_dataset(group), FILE))
    version = local.train_version(group)
    return local.recommend(version, ["stranger", "u1"], numResults=100)["stranger"]


@pytest.fixture(scope="module")
def good_list(films: Films) -> list[str]:
    return films.recommend(
        films.train("aws-user-personalization-v2"), ["stranger"], "good", numResults=100
    )["stranger"]


def shuffle_columns() -> bytes:
    """Return data with further columns, two with the same name, and a line break in a cell."""
    lines = [b"RATING,TIMESTAMP,ITEM_ID,RATING,EVENT_TYPE,USER_ID,\n"]
    for line in GOOD.splitlines()[1:]:
        user, item, time, event = line.split(b",")
        lines.append(b",".join([b'"5\n6"', time, item, b"x", event, user, b"\n"]))
    return b"".join(lines)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(shuffle_columns(), id="columns in another order"),
        pytest.param(b"\xef\xbb\xbf" + GOOD, id="a byte order mark"),
        pytest.param(GOOD.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(GOOD.replace(b"u1,", b'"u1",').rstrip(), id="quotes and no last newline"),
    ],
)
def test_a_file_in_another_form_gives_the_same_lists(
    local: Local, good_list: list[str], data: bytes
) -> None:
    assert import_and_list(local, data) == good_list


def test_an_empty_marker_of_success_is_passed_over(local: Local) -> None:
    """Spark writes the marker next to its files."""
    local.store.put("s3://data/parts/_SUCCESS", b"")
    dataset = local.create_dataset(local.create_group())
    job = local.wait(local.start_import(dataset, "s3://data/parts/"))
    assert "s3://data/parts/" in job["failureReason"]
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
    answer = local.client.create_dataset(
        name="films", schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
    )
    dataset = local.wait_until_active(answer["datasetArn"])
    local.wait_until_active(local.start_import(dataset, FILE, "nightly"))


def test_a_dataset_without_data_cannot_be_trained_on(local: Local) -> None:
    group = local.create_group()
    dataset = local.create_dataset(group)
    version = local.wait(local.create_version(local.create_solution(group)))
    assert version["status"] == "CREATE FAILED"
    assert dataset in version["failureReason"]


ITEM_FIELDS: list[dict[str, Any]] = [
    {"name": "ITEM_ID"},
    {"name": "GENRES", "type": ["null", "string"], "categorical": True},
    {"name": "DESCRIPTION", "type": ["string", "null"], "textual": True},
    {"name": "PRICE", "type": ["float", "null"]},
    {"name": "YEAR", "type": "int"},
    {"name": "NEW", "type": "boolean"},
    {"name": "CREATION_TIMESTAMP", "type": "long"},
]


def test_items_as_pandas_writes_them(films: Films) -> None:
    """Quotes, commas and line breaks in cells, empty cells, any case of true, and short rows."""
    lines = [
        'i1,Drama|War,"A ""long"" film,\nin two lines",9.5,1990,True,1600000000',
        "i2,,,,1991,false,1600000001",
        f"i3,Drama,{'x' * 1001},1,1990,TRUE,1",
    ]
    films.import_metadata(films.films, "Items", ITEM_FIELDS, lines)
    version = films.train("aws-user-personalization-v2")
    for expression, items in (
        ('INCLUDE ItemID WHERE Items.GENRES IN ("War")', {"i1"}),
        ("INCLUDE ItemID WHERE Items.PRICE > 9", {"i1"}),
        ("INCLUDE ItemID WHERE Items.YEAR > 1990", {"i2"}),
        ('INCLUDE ItemID WHERE Items.GENRES IN ("Drama")', {"i1", "i3"}),
    ):
        name = f"filter-{len(films.client.list_filters()['Filters'])}"
        filter_arn = films.create_filter(films.films, expression, name)
        answer = films.recommend(version, ["stranger"], name, filterArn=filter_arn)
        assert set(answer["stranger"]) == items


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (",Drama,x,1,1990,True,1", ["ITEM_ID"]),
        ("i1,Drama,x,cheap,1990,True,1", ["PRICE", "cheap"]),
        ("i1,Drama,x,inf,1990,True,1", ["PRICE", "inf"]),
        ("i1,Drama,x,1,,True,1", ["YEAR"]),
        ("i1,Drama,x,1,3000000000,True,1", ["YEAR", "3000000000"]),
        ("i1,Drama,x,1,1990,yes,1", ["NEW", "yes"]),
        (f"i1,Drama|{'x' * 1001},x,1,1990,True,1", ["GENRES"]),
        (f"{'i' * 257},Drama,x,1,1990,True,1", ["ITEM_ID"]),
    ],
)
def test_a_bad_item_is_refused_with_its_line_and_column(
    local: Local, row: str, words: Sequence[str]
) -> None:
    with pytest.raises(AssertionError, match="CREATE FAILED") as error:
        local.import_metadata(
            local.create_group(), "Items", ITEM_FIELDS, ["i0,War,x,1,1990,True,1", row]
        )
    assert "s3://data/Items.csv, line 3: " in str(error.value)
    for word in words:
        assert word in str(error.value)


# Texts that break readers: quotes, NUL, line ends, marks, bad UTF-8, malformed numbers, long texts.
NASTY = st.sampled_from(
    [
        *(b'"', b'""', b'"\n"', b'","', b"\0", b"\r", b"\r\n", b"\n\n", b",", b",,,,", b"|"),
        *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", "\u2028".encode()),
        *(b"NaN", b"1e999", b"-1", b"9" * 30, b" ", b"\t", b"#", b"'", b"\\", b"null"),
        *(b"x" * 300, b"x" * 300_000, b'"' + b"y\n" * 50_000),
    ]
)
PLACES = st.floats(0, 1, exclude_max=True)
CHANGES = st.tuples(PLACES, st.integers(0, 60), NASTY | st.binary(max_size=20))
SHORT = encode_csv(build_taste_rows(1000))


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """Draw a good file with some places overwritten, or bytes inserted."""
    data = SHORT
    for place, length, nasty in draw(st.lists(CHANGES, max_size=4)):
        position = int(place * (len(data) + 1))
        data = data[:position] + nasty + data[position + length :]
    return data


@settings(max_examples=repeats(40, 10), suppress_health_check=[HealthCheck.too_slow])
@given(data=damaged_files() | st.binary(max_size=300))
def test_any_file_is_imported_or_refused_with_a_reason(bad_files: Local, data: bytes) -> None:
    (dataset,) = bad_files.client.list_datasets()["datasets"]
    bad_files.store.put(FILE, data)
    job = bad_files.wait(bad_files.start_import(dataset["datasetArn"], FILE, uuid.uuid4().hex))
    assert job["status"] in ("ACTIVE", "CREATE FAILED")
    if job["status"] == "CREATE FAILED":
        assert job["failureReason"]
        assert "internal error" not in job["failureReason"]
