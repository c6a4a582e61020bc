"""Each place counts what it has of the people and erases it; all else stays: folder and bucket."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.erasure.job_outputs import JobOutputLines
from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Place
from batchrec_dagster.erasure.published_lists import PublishedEditions
from batchrec_dagster.erasure.rows import BatchUserLines, ParquetRows, make_imported_places
from batchrec_dagster.erasure.whole_files import WholeFiles
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_file import ListWriter, read_footer
from batchrec_dagster.storage.objects import DamagedObjectError
from batchrec_dagster_tests.guard.editions import ALONE, make_edition
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

PEOPLE = People.of(["ann", 'o"dd, id', "nobody"])


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ListFiles:
    root, connection = str(tmp_path), S3Connection()
    if request.param == "bucket":
        s3: S3Server = request.getfixturevalue("s3")
        root = f"s3://{s3.create_bucket()}/prefix"
        connection = S3Connection(
            endpoint_url=s3.endpoint,
            aws_access_key_id=OWNER.access,
            aws_secret_access_key=OWNER.secret,
            region_name=REGION,
        )
    return ListFiles(Storage(root=root, s3=connection), ListKeys("shop"))


def put(files: ListFiles, key: str, content: bytes) -> str:
    uri = files.uri(key)
    files.storage.store.put(uri, content)
    return uri


def get(files: ListFiles, key: str) -> bytes:
    return files.storage.store.get(files.uri(key))


def erase(place: Place, number: int) -> None:
    """Erase what there is, which is this much, and again, when nothing is left."""
    assert place.count(PEOPLE).number == number
    assert place.erase(PEOPLE) == number
    assert place.count(PEOPLE).number == place.erase(PEOPLE) == 0


def test_other_interactions_keep_their_bytes(files: ListFiles) -> None:
    others = (
        b"USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\nbob,1,5,view,\nanne,1,5,view,1.50\n"
    )
    rows = b'ann,1,5,view,2.0\n"o""dd, id",1,5,view,\nann,2,6,buy,1\n'
    put(files, files.keys.interactions, others + rows)
    interactions, _ = make_imported_places(files, trains_again=True)
    erase(interactions, 3)
    assert get(files, files.keys.interactions) == others


def test_attributes_of_other_users_keep_their_bytes(files: ListFiles) -> None:
    others = b'USER_ID,COUNTRY,AGE\nbob,AT,20\nanne,"a ""b"", c",\n'
    put(files, files.keys.users, others + b'ann,,21.5\n"o""dd, id",DE,\n')
    _, users = make_imported_places(files, trains_again=True)
    erase(users, 2)
    assert get(files, files.keys.users) == others


def test_users_who_get_lists_and_those_of_arms(files: ListFiles) -> None:
    keys = files.keys
    lines = [{"userId": user, "other": {"A": '"x"'}} for user in ("ann", "bob", 'o"dd, id')]
    put(files, files.keys.users_of_list, pl.DataFrame(lines).write_ndjson().encode())
    put(files, keys.arm_users("model"), b'{"userId":"ann"}\n')
    put(files, keys.arm_users("control"), b'{"userId":"bob"}\n')
    erase(BatchUserLines(files), 3)
    kept = b'{"userId":"bob","other":{"A":"\\"x\\""}}\n'
    assert get(files, keys.users_of_list) == kept
    assert get(files, keys.arm_users("control")) == b'{"userId":"bob"}\n'
    # A file without lines would be no input.
    assert files.storage.store.head(files.uri(keys.arm_users("model"))) is None


def test_lines_of_batch_outputs(files: ListFiles) -> None:
    keys = files.keys
    other = b'{"input":{"userId":"bob"},"output":{"recommendedItems":["ann"]},"error":null}\n'
    lines = [
        json.dumps({"input": {"userId": user}, "output": {"recommendedItems": ["1"]}})
        for user in ("ann", 'o"dd, id')
    ]
    inference = keys.job_output("batch_inference", "job") + "users.json.out"
    put(files, inference, "\n".join([*lines, ""]).encode() + other)
    only = keys.job_output("batch_inference", "old job") + "users.json.out"
    put(files, only, lines[0].encode())
    damaged = keys.job_output("batch_inference", "damaged") + "users.json.out"
    put(files, damaged, b'{"input":{"userId":"ann"\n{"input":{"user\n')
    reason = keys.job_output("batch_inference", "damaged") + "damaged.txt"
    put(files, reason, b"1 of 2 users have a result; 1 missing\n")
    segment = keys.job_output("batch_segments", "job") + "queries.json.out"
    untouched = b'{"input": {"itemId": "ann"}, "output": {"usersList": ["bob"]}, "error": null}\n'
    changed = '{"input": {"itemId": "1"}, "output": {"usersList": ["bob", %s"cé"]}}\n'
    put(files, segment, untouched + (changed % '"ann", ').encode())
    erase(JobOutputLines(files), 6)
    assert get(files, inference) == other
    assert files.storage.store.head(files.uri(only)) is None
    # Damaged lines may be of anybody.
    assert files.storage.store.head(files.uri(damaged)) is None
    assert get(files, reason) == b"1 of 2 users have a result; 1 missing\n"
    assert get(files, segment) == untouched + (changed % "").encode()


def test_rows_of_a_table_with_metadata_and_of_one_without(files: ListFiles, tmp_path: Path) -> None:
    table = pa.table({"user_id": ["ann", "bob", None, 'o"dd, id'], "error": ["x", None, "y", "z"]})
    with ListWriter(tmp_path / "table.parquet") as writer:
        writer.write(table)
        writer.finish(make_edition({"version": "v1"}))
    files.storage.store.put(files.uri("shop/with.parquet"), writer.path)
    files.write_parquet("shop/without.parquet", pl.DataFrame(table))
    files.storage.store.put(files.uri("shop/.DS_Store"), b"ann")
    erase(ParquetRows("rows", files.storage, files.uri("shop/with")), 4)
    for key in ("shop/with.parquet", "shop/without.parquet"):
        rows = files.parquet(key, "")
        assert rows is not None
        assert rows.rows() == [("bob", None), (None, "y")]
    with files.storage.local_file(files.uri("shop/with.parquet")) as path:
        assert read_footer(path, Edition) == make_edition({"version": "v1"})


def test_whole_files_go_but_for_those_of_another_place(files: ListFiles) -> None:
    for key in ("raw/a.csv", "raw/b/c.csv", "raw/items/items.csv", "report.html", "report.html.b"):
        put(files, key, b"ann")
    place = WholeFiles(
        "files",
        "deleted",
        files.storage.store,
        [files.uri("raw/"), files.uri("report.html")],
        [files.uri("raw/items/")],
    )
    erase(place, 3)
    left = {
        info.uri.removeprefix(files.uri("")) for info in files.storage.store.list(files.uri(""))
    }
    assert left == {"raw/items/items.csv", "report.html.b"}


def publish(files: ListFiles, folder: Path, number: int) -> None:
    with ListWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["ann", "bob"], "rank": [1, 1], "item_id": ["1", "2"]}))
        writer.finish(make_edition({"number": number, "version": f"v{number}"}))
    files.editions.publish(writer.path, 9, ALONE)


def test_editions_stay_without_the_people(files: ListFiles, tmp_path: Path) -> None:
    for number in (2, 3):
        publish(files, tmp_path, number)
    # An older edition of which not even the metadata can be read.
    files.storage.store.put(f"{files.editions.history}000000-v0.parquet", b"ann")
    erase(PublishedEditions(files.editions, is_live=False), 1)
    erase(PublishedEditions(files.editions, is_live=True), 1)
    (older,) = files.editions.kept()
    current = files.editions.live()
    assert current is not None
    assert (older.name, current.name) == ("000002-v2", "000003-v3")
    for edition in (older, current):
        assert files.editions.read_rows(edition).collect().rows() == [("bob", 1, "2")]
    assert len(files.storage.store.list(files.editions.history)) == 1


def test_a_damaged_live_edition_is_refused(files: ListFiles, tmp_path: Path) -> None:
    publish(files, tmp_path, 1)
    content = files.storage.store.get(files.editions.uri)
    files.storage.store.put(files.editions.uri, content[: len(content) // 2])
    with pytest.raises(DamagedObjectError, match="delete it, and run the refresh"):
        PublishedEditions(files.editions, is_live=True).erase(PEOPLE)
