"""Tests of every source of ratings: files, S3, the web, databases and tables.

A source lists its files with a version for each, and a run copies exactly these versions.
"""

from __future__ import annotations

import gzip
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from batchrec_dagster_tests.guard.builders import zip_members
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.web import Page, Web, serving

Rows = list[tuple[str, str, int]]

START = 1_500_000_000
ROWS: Rows = [(f"u{n}", f"00{n % 7}", START + n) for n in range(20)]
# The file has the same number of bytes in every format.
OTHERS: Rows = [*ROWS[:-1], ("u91", "001", START + 91)]
COLUMNS = {"user": "user", "item": "item", "timestamp": "time"}
NAMES = [*COLUMNS.values()]


@dataclass(frozen=True)
class Source:
    """A place of rows, and its declaration."""

    write: Callable[[Rows], object]
    """The function that writes the rows to the place, and replaces the rows before."""
    source: str | dict[str, str]
    others: dict[str, Any] = field(default_factory=dict)
    """Further settings that the source needs."""

    @property
    def name(self) -> str:
        """The source's name in messages, without a URL's query, which may be a signature."""
        texts = [self.source] if isinstance(self.source, str) else [*self.source.values()]
        return texts[0].partition("?")[0].partition("!/")[0]

    @property
    def ratings(self) -> dict[str, Any]:
        """The block of the YAML file."""
        return {"source": self.source, "columns": COLUMNS, **self.others}


def encode_csv(rows: Rows) -> bytes:
    lines = [NAMES, *(map(str, row) for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines).encode()


def zip_rows(rows: Rows) -> bytes:
    return zip_members({"data/orders.csv": encode_csv(rows), "README": b"read me"})


class Places:
    """The sources of a test by name."""

    def __init__(self, folder: Path, request: pytest.FixtureRequest) -> None:
        self.folder = folder
        self.request = request

    def make(self, name: str) -> Source:
        source: Source = getattr(self, f"make_{name}")()
        return source

    def write_file(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Readers with an open file keep the old file.
        part = path.with_name(f".{path.name}")
        part.write_bytes(content)
        part.replace(path)

    def write_parts(self, rows: Rows) -> None:
        self.write_file("in/deep/2.csv", encode_csv(rows[10:]))
        self.write_file("in/1.csv", encode_csv(rows[:10]))
        self.write_file("in/README.md", b"two files")
        self.write_file("in/_SUCCESS", b"")
        self.write_file("in/.hidden.csv", b"what is no data")

    @property
    def bucket(self) -> str:
        s3: S3Server = self.request.getfixturevalue("s3")
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        self.client = s3.client()
        return s3.create_bucket()

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    @property
    def web(self) -> Web:
        web: Web = self.request.getfixturevalue("web")
        return web

    def make_file(self) -> Source:
        return Source(lambda rows: self.write_file("a.csv", encode_csv(rows)), "a.csv")

    def make_file_at_home(self) -> Source:
        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        patch.setenv("HOME", str(self.folder / "home"))
        return Source(lambda rows: self.write_file("home/a.csv", encode_csv(rows)), "~/a.csv")

    def make_packed_file(self) -> Source:
        return Source(
            lambda rows: self.write_file("a.csv.gz", gzip.compress(encode_csv(rows))),
            str(self.folder / "a.csv.gz"),
        )

    def make_folder(self) -> Source:
        return Source(self.write_parts, "in/")

    def make_pattern(self) -> Source:
        return Source(self.write_parts, "in/**/*.csv")

    def make_member(self) -> Source:
        return Source(
            lambda rows: self.write_file("a.zip", zip_rows(rows)), "a.zip!/data/orders.csv"
        )

    def make_archive(self) -> Source:
        return Source(lambda rows: self.write_file("a.zip", zip_rows(rows)), "a.zip")

    def make_sheet(self) -> Source:
        def write(rows: Rows) -> None:
            book = xlsxwriter.Workbook(self.folder / "part.xlsx")
            book.add_worksheet("About").write(0, 0, "Exported on Monday")
            sheet = book.add_worksheet("Orders")
            for number, row in enumerate([NAMES, *rows]):
                sheet.write_row(number, 0, row)
            book.close()
            (self.folder / "part.xlsx").replace(self.folder / "a.xlsx")

        return Source(write, "a.xlsx!/Orders")

    def make_object(self) -> Source:
        bucket = self.bucket
        return Source(
            lambda rows: self.put(bucket, "in/a.csv", encode_csv(rows)), f"s3://{bucket}/in/a.csv"
        )

    def make_prefix(self) -> Source:
        bucket = self.bucket

        def write(rows: Rows) -> None:
            self.put(bucket, "in/deep/2.csv", encode_csv(rows[10:]))
            self.put(bucket, "in/1.csv", encode_csv(rows[:10]))
            self.put(bucket, "in/_SUCCESS", b"")
            self.put(bucket, "in_another/3.csv", b"what is no data of it")

        return Source(write, f"s3://{bucket}/in/")

    def make_member_in_s3(self) -> Source:
        bucket = self.bucket
        return Source(
            lambda rows: self.put(bucket, "a.zip", zip_rows(rows)),
            f"s3://{bucket}/a.zip!/data/orders.csv",
        )

    def make_web(self) -> Source:
        def write(rows: Rows) -> None:
            content = encode_csv(rows)
            self.web.pages["/a.csv"] = Page(content, etag=f'"{hash(content)}"')

        return Source(write, self.web.url("/a.csv?signature=secret"))

    def make_web_without_versions(self) -> Source:
        def write(rows: Rows) -> None:
            self.web.pages["/a.csv"] = Page(encode_csv(rows), etag=None)

        return Source(write, self.web.url("/a.csv"))

    def make_member_on_the_web(self) -> Source:
        def write(rows: Rows) -> None:
            content = zip_rows(rows)
            self.web.pages["/a.zip"] = Page(content, etag=f'"{hash(content)}"')

        return Source(write, self.web.url("/a.zip!/data/orders.csv"))

    def make_query(self) -> Source:
        def write(rows: Rows) -> None:
            self.write_file("users.csv", encode_csv(rows))
            items = {item: f"sku {item}" for _, item, _ in rows}
            lines = ["item,sku", *(f"{item},{sku}" for item, sku in items.items())]
            self.write_file("items.csv", "\n".join(lines).encode())

        query = (
            "SELECT user, replace(sku, 'sku ', '') AS item, time::BIGINT AS time"
            " FROM users JOIN items USING (item)"
        )
        return Source(write, {"users": "users.csv", "items": "items.csv"}, {"query": query})

    def make_database(self) -> Source:
        def write(rows: Rows) -> None:
            with sqlite3.connect(self.folder / "shop.db") as connection:
                connection.execute("DROP TABLE IF EXISTS t")
                connection.execute("CREATE TABLE t (user TEXT, item TEXT, time INTEGER)")
                connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)

        patch: pytest.MonkeyPatch = self.request.getfixturevalue("monkeypatch")
        patch.setenv("SHOP_DATABASE_URL", f"sqlite:///{self.folder}/shop.db")
        queries = {
            "query": "SELECT * FROM t",
            "version_query": "SELECT max(user), min(user) FROM t",
        }
        return Source(write, "sql+env://SHOP_DATABASE_URL", queries)

    def make_delta_table(self) -> Source:
        def write(rows: Rows) -> None:
            from deltalake import write_deltalake

            frame = pl.DataFrame(rows, schema=NAMES, orient="row")
            write_deltalake(str(self.folder / "lake"), frame.to_arrow(), mode="overwrite")

        return Source(write, "lake/", {"format": "delta"})

    def make_parquet(self) -> Source:
        def write(rows: Rows) -> None:
            frame = pl.DataFrame(rows, schema=NAMES, orient="row")
            frame.write_parquet(self.folder / "part")
            (self.folder / "part").replace(self.folder / "a.parquet")

        return Source(write, "a.parquet")


ALL = [name.removeprefix("make_") for name in vars(Places) if name.startswith("make_")]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as server:
        yield server


@pytest.fixture(params=ALL)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return Places(tmp_path, request).make(request.param)


def read_copies(folder: Path, source: Source, copies: list[preparation.RawFile]) -> Rows:
    """Return the rows of the copies, which are read like any other files."""
    readable_settings = {
        name: value for name, value in source.others.items() if name not in QUERIED
    }
    rows: Rows = []
    for copy in copies:
        ratings = {"source": str(copy.path), "columns": COLUMNS, **readable_settings}
        rows += preparation.prepare(folder, {"ratings": ratings}).rows
    return rows


# Settings of rows that become Parquet before the copy.
QUERIED = ("query", "version_query", "format")


class TestSource:
    def test_its_rows_are_read_and_copied(self, source: Source, tmp_path: Path) -> None:
        source.write(ROWS)
        assert sorted(preparation.prepare(tmp_path, {"ratings": source.ratings}).rows) == sorted(
            ROWS
        )
        copies = preparation.copy_raw(tmp_path, source.ratings)
        assert sorted(read_copies(tmp_path, source, copies)) == sorted(ROWS)

    def test_its_version_changes_when_its_rows_do(self, source: Source, tmp_path: Path) -> None:
        source.write(ROWS)
        versions = preparation.list_files(tmp_path, source.ratings)
        assert preparation.list_files(tmp_path, source.ratings) == versions
        # A file system's times may be no more precise.
        time.sleep(0.02)
        source.write(OTHERS)
        assert preparation.list_files(tmp_path, source.ratings) != versions

    def test_a_missing_source_is_named_in_one_line(self, source: Source, tmp_path: Path) -> None:
        for look in (preparation.list_files, preparation.copy_raw):
            with pytest.raises(preparation.UserError) as error:
                look(tmp_path, source.ratings)
            message = str(error.value)
            assert "\n" not in message
            assert "secret" not in message
            assert source.name in message
        assert not [path for path in tmp_path.glob("raw/**/*") if path.is_file()]

    def test_rows_of_two_states_are_never_mixed(self, source: Source, tmp_path: Path) -> None:
        """The run reads one state, or reports two states. The next run misses nothing."""
        source.write(ROWS)
        try:
            copies = preparation.copy_raw(tmp_path, source.ratings, lambda: source.write(OTHERS))
        except preparation.UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either outcome is fine)
            return
        rows = sorted(read_copies(tmp_path, source, copies))
        if rows != sorted(OTHERS):
            assert rows == sorted(ROWS)
            versions = {copy.name: copy.version for copy in copies}
            assert preparation.list_files(tmp_path, source.ratings) != versions
