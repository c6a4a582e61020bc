"""Tests that readers always get a whole edition, in a folder and in a bucket.

Meanwhile, processes that are killed replace the edition repeatedly.
"""

from __future__ import annotations

import io
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.publishing import Editions, NightsWork
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

KILLS = repeats(5, 2)
EDITIONS_BEFORE_KILL = 3
KEPT = 2
ROWS = 20_000
# One edition in five is so long that it is uploaded in parts.
SHORT, LONG = 8, 500
"""The number of random hexadecimal digits in each row of a short and of a long edition."""
TABLE = "shop/curated/recommendations/recommendations.parquet"
TIME = datetime(2026, 1, 5, 3, tzinfo=UTC)
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Place:
    """The location of editions, in a form that another process understands."""

    root: str
    environment: Mapping[str, str]

    @property
    def editions(self) -> Editions:
        return Editions(Store.open(self.root, self.environment), KEPT)


def publish(place: Place, say: Connection | None = None) -> None:
    """Publish the next edition, with the edition's number in each row.

    say: receives a message when the edition is made, and when it is published.
    """
    editions = place.editions
    live = editions.live()
    number = 1 if live is None else live.number + 1
    chance = random.Random(number)
    width = LONG if number % 5 == 0 else SHORT
    lists = pl.DataFrame(
        {
            "user_id": [str(number)] * ROWS,
            "rank": range(ROWS),
            "item_id": [chance.randbytes(width // 2).hex() for _ in range(ROWS)],
        }
    )
    if say:
        say.send(None)
    start_seconds = time.monotonic()
    editions.publish(NightsWork(f"arn:m/{number}", f"data {number}", lists, TIME))
    if say:
        say.send(time.monotonic() - start_seconds)


def keep_publishing(place: Place, say: Connection) -> None:
    while True:
        publish(place, say)


def kill_while_publishing(place: Place, chance: random.Random) -> None:
    """Publish editions in a process, and kill it at a random moment of the last publication."""
    reader, writer = FORKS.Pipe(duplex=False)
    publisher = FORKS.Process(target=keep_publishing, args=(place, writer))
    publisher.start()
    seconds = 0.0
    for edition in range(EDITIONS_BEFORE_KILL + 1):
        assert reader.poll(PATIENCE_SECONDS)
        reader.recv()
        if edition < EDITIONS_BEFORE_KILL:
            assert reader.poll(PATIENCE_SECONDS)
            seconds = reader.recv()
    time.sleep(chance.random() * seconds)
    publisher.kill()
    publisher.join()


def find_edition(lists: pl.DataFrame) -> int:
    """Return the number of the edition, and require that all rows belong to it."""
    (number,) = lists.get_column("user_id").unique()
    if lists.get_column("rank").to_list() != [*range(ROWS)]:
        raise AssertionError(f"not one whole edition: {lists}")
    return int(number)


def keep_reading(place: Place, say: Connection) -> None:
    """Read by batchrec and by other libraries until the message to stop arrives.

    At the end, send the number of readings, or an error.
    """
    editions, reads, last = place.editions, 0, 0
    try:
        while not say.poll(0.01):
            live = editions.live()
            assert live is not None
            number = find_edition(live.lists)
            if number != live.number or number < last:
                raise AssertionError(f"{number} is called {live.number} and came after {last}")
            last, reads = number, reads + 1
            content = io.BytesIO(editions.store.get(TABLE))
            find_edition(pl.from_pandas(pd.read_parquet(content)))
        say.send(reads)
    except BaseException as error:
        say.send(f"after {reads} reads: {error!r}")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "storage"), {})
    s3: S3Server = request.getfixturevalue("s3")
    return Place(f"s3://{s3.create_bucket()}", s3.environment())


def test_readers_get_one_whole_edition_while_publishers_are_killed(place: Place) -> None:
    chance = random.Random(6)
    publish(place)
    connection, child_connection = FORKS.Pipe()
    reader = FORKS.Process(target=keep_reading, args=(place, child_connection))
    reader.start()
    try:
        for _ in range(KILLS):
            kill_while_publishing(place, chance)
        connection.send("stop")
        assert connection.poll(PATIENCE_SECONDS)
        report = connection.recv()
    finally:
        reader.kill()
        reader.join()
    assert isinstance(report, int), report
    assert report > KILLS
    # Files of killed publishers do not disturb others, and the next editions delete them.
    for _ in range(KEPT + 1):
        publish(place)
    assert len(place.editions.older()) == KEPT
    tables = [key for key in place.editions.store.list("") if key.endswith(".parquet")]
    assert len(tables) == 1 + KEPT
