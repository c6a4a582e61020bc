"""Readers always get one whole edition, in a folder and in a bucket.

A table is replaced again and again, and its publisher killed, while other processes read it.
"""

from __future__ import annotations

import io
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import boto3
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.published_table import PublishedTable, TableWriter
from batchrec_dagster_tests.guard.editions import complete_about
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server

pytestmark = pytest.mark.slow

KILLS = repeats(5, 2)
REFRESHES = 3 * KILLS
KEEP = 2
SEED = 6
ROWS, PIECES = 20_000, 4
# One edition in five is so long that it is uploaded in several parts.
SHORT, LONG = 8, 500
"""Bytes of noise in each row."""
TABLE = "shop/curated/lists/lists.parquet"


@dataclass(frozen=True)
class Place:
    """The place of a table, with what another process needs to open it."""

    root: Path | None
    endpoint: str
    bucket: str

    @property
    def table(self) -> PublishedTable:
        store = (
            ObjectStore({self.bucket: self.root})
            if self.root
            else ObjectStore({}, lambda: boto3.Session(OWNER.access, OWNER.secret), self.endpoint)
        )
        return PublishedTable(store, f"s3://{self.bucket}/{TABLE}")


def publish(place: Place, say: Connection | None = None) -> None:
    """Publishes the next edition, each row of which has the edition's number.

    say: gets a message when the edition is made, and when it is published.
    """
    table = place.table
    number = table.next_number()
    width = LONG if number % 5 == 0 else SHORT
    rows = ROWS // PIECES
    with (
        tempfile.TemporaryDirectory() as folder,
        TableWriter(Path(folder) / "lists.parquet") as writer,
    ):
        for start in range(0, ROWS, rows):
            noise = pa.py_buffer(random.Random(start).randbytes(rows * width))
            columns = {
                "edition": np.full(rows, number),
                "row": np.arange(start, start + rows),
                "noise": pa.Array.from_buffers(pa.binary(width), rows, [None, noise]),
            }
            writer.write(pa.table(columns))
        writer.finish(complete_about({"edition": number, "version": f"v{number}"}))
        if say:
            say.send(None)
        start_seconds = time.monotonic()
        table.publish(writer.path, KEEP)
        if say:
            say.send(time.monotonic() - start_seconds)


def keep_publishing(place: Place, say: Connection) -> None:
    """One edition after the other."""
    while True:
        publish(place, say)


def kill_while_publishing(place: Place, editions: int, chance: random.Random) -> None:
    """Publish so many editions, and be killed at a random moment of publishing the next."""
    reader, writer = FORKS.Pipe(duplex=False)
    publisher = FORKS.Process(target=keep_publishing, args=(place, writer))
    publisher.start()
    took = 0.0
    for edition in range(editions + 1):
        assert reader.poll(600)
        reader.recv()
        if edition < editions:
            assert reader.poll(600)
            took = reader.recv()
    time.sleep(chance.random() * took)
    publisher.kill()
    publisher.join()


def find_edition(frame: pl.DataFrame | pl.LazyFrame) -> int:
    """The edition whose rows these are, all of them."""
    facts = frame.lazy().select(
        first=pl.col("edition").min(),
        last=pl.col("edition").max(),
        rows=pl.len(),
        different=pl.col("row").n_unique(),
        highest=pl.col("row").max(),
    )
    first, *read = facts.collect(engine="streaming").row(0)
    if read != [first, ROWS, ROWS, ROWS - 1]:
        raise AssertionError(f"not one whole edition: {[first, *read]}")
    return int(first)


def keep_reading(place: Place, say: Connection) -> None:
    """Reads as this project does, and as others do, until it gets the message to stop.

    Then it sends how often it has read, or what was wrong.
    """
    table, reads, last = place.table, 0, 0
    path = table.store.local_path(table.uri)
    try:
        while not say.poll(0.01):
            edition, frame = table.read()
            edition_found = find_edition(frame)
            if edition_found != edition.number or edition_found < last:
                raise AssertionError(
                    f"{edition_found} is called {edition.number} and came after {last}"
                )
            last, reads = edition_found, reads + 1
            # pandas would open a file twice if it were given the path.
            file = path.open("rb") if path else io.BytesIO(table.store.get(table.uri))
            with file:
                find_edition(pl.from_pandas(pd.read_parquet(file)))
        say.send(reads)
    except BaseException as error:
        say.send(f"after {reads} reads: {error!r}")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(tmp_path, "", "lake")
    s3: S3Server = request.getfixturevalue("s3")
    return Place(None, s3.endpoint, s3.create_bucket())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("place", ["folder", "bucket"], indirect=True)
def test_readers_get_one_whole_edition(place: Place) -> None:
    chance = random.Random(SEED)
    publish(place)
    connection, child_connection = FORKS.Pipe()
    reader = FORKS.Process(target=keep_reading, args=(place, child_connection))
    reader.start()
    try:
        for _ in range(KILLS):
            kill_while_publishing(place, REFRESHES // KILLS + chance.randint(0, 1), chance)
        connection.send("stop")
        assert connection.poll(600)
        report = connection.recv()
    finally:
        reader.kill()
        reader.join()
    assert isinstance(report, int), report
    assert report > KILLS
    # What killed publishers left does not disturb others, and the next editions remove it.
    for _ in range(KEEP + 1):
        publish(place)
    table = place.table
    assert len(table.older()) == KEEP
    assert len(table.store.list(f"s3://{place.bucket}/")) == 1 + KEEP
