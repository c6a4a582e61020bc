"""A table is data: nothing in it is executed, and it reads no file but its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster.config.ratings import RatingsSettings
from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, REGION, S3Server
from batchrec_dagster_tests.guard.servers.web import Web
from batchrec_dagster_tests.preparation.sources.hostile_tables import (
    ROWS,
    change_commit,
    write_delta,
)
from batchrec_dagster_tests.preparation.sources.support import Place

pytestmark = pytest.mark.attack

# What is said of a file out of the folder; an absolute path is taken for one in it.
OUTSIDE = "names a file that is not in its folder|a file of it is missing"


@dataclass(frozen=True)
class TablePlace:
    """The place of a hostile table, and functions that read and write its files there."""

    place: Place
    location: str
    """The URI of the table's folder."""

    source: str
    """The same as a declaration has it."""

    read: Callable[[str], bytes]
    write: Callable[[str, bytes], object]
    names: Callable[[], list[str]]
    options: dict[str, str]
    """What deltalake needs to reach it."""

    @property
    def is_in_s3(self) -> bool:
        return self.location.startswith("s3://")


@pytest.fixture(params=["folder", "S3"])
def table_place(
    request: pytest.FixtureRequest, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TablePlace]:
    """A folder on this machine, or a prefix of a bucket on a real S3 server."""
    folders = {"copies": tmp_path / "copies"}
    if request.param == "folder":
        place = replace(place, store=replace(place.store, folders=folders))
        root = place.base / "orders"

        def write_file(name: str, content: bytes) -> None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

        yield TablePlace(
            place,
            f"file://{root}",
            "orders/",
            lambda name: (root / name).read_bytes(),
            write_file,
            lambda: [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()],
            {},
        )
        return
    s3: S3Server = request.getfixturevalue("s3")
    bucket = s3.create_bucket()
    for name, value in s3.environment(READER).items():
        monkeypatch.setenv(name, value)
    location, store = f"s3://{bucket}/orders", s3.store()
    yield TablePlace(
        replace(place, store=replace(s3.store(READER), folders=folders)),
        location,
        f"{location}/",
        lambda name: store.get(f"{location}/{name}"),
        lambda name, content: store.put(f"{location}/{name}", content),
        lambda: [o.uri.removeprefix(f"{location}/") for o in store.list(f"{location}/")],
        {
            "aws_access_key_id": OWNER.access,
            "aws_secret_access_key": OWNER.secret,
            "aws_endpoint_url": s3.endpoint,
            "aws_allow_http": "true",
            "aws_region": REGION,
        },
    )


def read_rows(table_place: TablePlace) -> pl.DataFrame:
    """The rows as raw/ gets them."""
    ratings = RatingsSettings.model_validate({"source": table_place.source, "format": "delta"})
    (listed_file,) = ratings.rows.files(table_place.place.context)
    listed_file.file.copy(table_place.place.context, "s3://copies/raw")
    return pl.read_parquet(table_place.place.store.get("s3://copies/raw"))


def read_refusal(table_place: TablePlace) -> str:
    """The message with which the table is refused, which is one line; nothing is published."""
    with pytest.raises(SourceError) as error:
        read_rows(table_place)
    message = str(error.value)
    assert "\n" not in message
    assert table_place.place.store.head("s3://copies/raw") is None
    return message


def name_outside_files(
    table_place: TablePlace, web: Web, tmp_path: Path, case: int
) -> dict[str, str]:
    """Names of files that are not the table's, by the way in which they lead out of it.

    case: the number of a test's case. In `make test` each case has one name, and eight have all.
    """
    secret = tmp_path / "secret.parquet"
    pl.DataFrame({"user": ["secret"], "item": [1], "ts": [1]}).write_parquet(secret)
    names = {
        "another folder": f"file://{secret}",
        "percent signs": f"{table_place.location}/%2e%2e/secret.parquet",
        "a web server": web.url("/secret.parquet"),
        "a path": str(secret),
        "another bucket": "s3://another/secret.parquet",
        "the folder above": f"{table_place.location}/../secret.parquet",
        "percent signs twice": f"{table_place.location}/data/%252e%252e/%252e%252e/secret.parquet",
        "a folder with a longer name": f"{table_place.location}-2/secret.parquet",
    }
    ways = [*names.items()]
    return dict((ways[case:] + ways[:case])[: repeats(len(ways), 1)])


def test_a_delta_table_names_no_file_out_of_its_folder(
    table_place: TablePlace, web: Web, tmp_path: Path
) -> None:
    write_delta(table_place.location, table_place.options)
    (commit,) = [name for name in table_place.names() if name.endswith(".json")]
    original = table_place.read(commit)
    names = name_outside_files(table_place, web, tmp_path, 2 if table_place.is_in_s3 else 1) | {
        "a path from the folder": "../secret.parquet",
        "such a path with percent signs": "%2e%2e/secret.parquet",
        "within": "day=1/../../secret.parquet",
    }
    for escape, name in names.items():
        table_place.write(commit, change_commit(original, {"path": name}))
        assert re.search(OUTSIDE, read_refusal(table_place)), escape
    features = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    protocol = {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}}
    lines = [line for line in original.splitlines() if b'"protocol"' not in line]
    original_with_vectors = b"\n".join([json.dumps(protocol).encode(), *lines])
    for kind, vector in (("p", f"file://{tmp_path}/secret.bin"), ("u", "../../" + "0" * 20)):
        vector_descriptor = {
            **{"storageType": kind, "pathOrInlineDv": vector},
            **{"offset": 1, "sizeInBytes": 1, "cardinality": 1},
        }
        changed_commit = change_commit(original_with_vectors, {"deletionVector": vector_descriptor})
        table_place.write(commit, changed_commit)
        assert "cannot be read" in read_refusal(table_place)
    assert web.requests == []
    table_place.write(commit, original)
    assert len(read_rows(table_place)) == len(ROWS)


def test_a_checkpoint_of_delta_names_no_file_out_of_its_folder(
    table_place: TablePlace, tmp_path: Path
) -> None:
    from deltalake import DeltaTable

    write_delta(table_place.location, table_place.options)
    DeltaTable(
        table_place.location, storage_options=table_place.options or None
    ).create_checkpoint()
    assert len(read_rows(table_place)) == len(ROWS)
    table_place.place.store.delete("s3://copies/raw")
    (name,) = [name for name in table_place.names() if name.endswith(".checkpoint.parquet")]
    copy = tmp_path / "checkpoint.parquet"
    copy.write_bytes(table_place.read(name))
    add = pl.col("add")
    outside_add = add.struct.with_fields(
        pl.when(add.struct.field("path").is_not_null())
        .then(pl.lit(f"file://{tmp_path}/secret.parquet"))
        .alias("path")
    )
    changed_checkpoint = pl.read_parquet(copy).with_columns(
        add=pl.when(add.is_not_null()).then(outside_add)
    )
    changed_checkpoint.write_parquet(copy)
    table_place.write(name, copy.read_bytes())
    assert re.search(OUTSIDE, read_refusal(table_place))


def test_a_link_does_not_lead_out_of_a_table(place: Place, tmp_path: Path) -> None:
    root = place.base / "orders"
    write_delta(f"file://{root}")
    table_place = TablePlace(
        replace(place, store=replace(place.store, folders={"copies": tmp_path / "copies"})),
        f"file://{root}",
        "orders/",
        lambda name: b"",
        lambda name, content: None,
        list,
        {},
    )
    assert len(read_rows(table_place)) == len(ROWS)
    table_place.place.store.delete("s3://copies/raw")
    log = root / "_delta_log"
    data = next(root.rglob("*.parquet"))
    for linked_path in (data, log, max(log.glob("*.json"))):
        # The content is the same, but it lies outside the folder.
        outside_folder = tmp_path / "elsewhere"
        shutil.move(linked_path, outside_folder)
        linked_path.symlink_to(outside_folder)
        assert "it is a link out of the folder" in read_refusal(table_place), linked_path
        linked_path.unlink()
        shutil.move(outside_folder, linked_path)
    # A link to another file of the table harms nobody.
    data.rename(data.with_name("other.parquet"))
    data.symlink_to(data.with_name("other.parquet"))
    assert len(read_rows(table_place)) == len(ROWS)


@pytest.mark.parametrize("table_place", ["S3"], indirect=True)
def test_a_table_that_is_too_large_is_refused_before_it_is_downloaded(
    table_place: TablePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_delta(table_place.location, table_place.options)
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.000001")
    downloads: list[str] = []
    download = ObjectStore.download

    def download_and_note(store: ObjectStore, uri: str, path: Path) -> None:
        downloads.append(uri)
        download(store, uri, path)

    monkeypatch.setattr(ObjectStore, "download", download_and_note)
    assert "its files have more than the 1000 bytes of BATCHREC_MAX_FILE_GB" in read_refusal(
        table_place
    )
    assert not [uri for uri in downloads if uri.endswith(".parquet")]


def test_a_table_may_have_file_names_with_percent_signs(table_place: TablePlace) -> None:
    import pyarrow as pa
    from deltalake import write_deltalake

    days = pa.table({"user": ["a", "b"], "day": ["a b/c", "100%"]})
    write_deltalake(
        table_place.location,
        days,
        partition_by=["day"],
        storage_options=table_place.options or None,
    )
    assert sorted(read_rows(table_place).get_column("day")) == ["100%", "a b/c"]


# One in S3 too: what is read is the same.
DAMAGED_LOGS = [
    ("S3", b"{"),
    ("folder", b"{"),
    ("folder", b"[" * 100_000),
    ("folder", b'{"add": {}}'),
    ("folder", b'{"add": {"path": 7}}'),
    ("folder", b"7\n"),
    ("folder", b'{"add": 7}'),
]


@pytest.mark.parametrize(("table_place", "damage"), DAMAGED_LOGS, indirect=["table_place"])
def test_a_damaged_log_of_delta_is_one_line(table_place: TablePlace, damage: bytes) -> None:
    table_place.write("_delta_log/00000000000000000000.json", damage)
    assert "cannot be read" in read_refusal(table_place)
