"""kill -9 while files are copied, prepared and published: what is there is whole, or not there."""

from __future__ import annotations

import itertools
import random
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from batchrec_dagster.preparation.layout import Columns, FileForm
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster.preparation.sources.parsing import parse_file
from batchrec_dagster.preparation.sources.source import SourceContext
from batchrec_dagster.samples import generator
from batchrec_dagster.steps.stored_files import put_stream
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS

pytestmark = pytest.mark.slow

MOMENTS = repeats(6, 2)
ROWS = 20_000
SEED = 5
RAW, PUBLISHED = "s3://lake/raw/ratings.csv", "s3://lake/interactions/interactions.csv"
# The first takes the direct way. The second has all rules and so takes the long way.
RULES = (Rules(min_rating=3.5), Rules("skip", duplicates="drop", latest_per_pair=True))


def work(root: Path, name: str, rules: Rules) -> None:
    """Copies, prepares and stores ratings as raw_ratings and interactions do."""
    store = ObjectStore({"lake": root / "lake"})
    (file,) = parse_file(name).files(SourceContext(store, root, root / "cache", generator))
    put_stream(store, RAW, file.chunks())
    path = store.local_path(RAW)
    assert path is not None
    with open_ratings([RawFile(path, name)], FileForm(), Columns(), rules) as ratings:
        ratings.write_interactions(root / "interactions.csv")
    store.put(PUBLISHED, root / "interactions.csv")


def keep_working(root: Path, say: Connection) -> None:
    """The same over and over, with another file each time."""
    for number in itertools.count():
        work(root, f"{number % 2}.csv", RULES[number % 2])
        if number == 1:
            say.send("warm")


def write_ratings(root: Path) -> None:
    for number in range(2):
        chance = random.Random(number)
        rows = "".join(
            f"{chance.randrange(500)},{chance.randrange(90)},{chance.randint(1, 5)},15000{row:05}\n"
            for row in range(ROWS)
        )
        (root / f"{number}.csv").write_text(f"userId,movieId,rating,timestamp\n{rows}")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_nothing_half_written_is_ever_taken_as_whole(tmp_path: Path) -> None:
    store = ObjectStore({"lake": tmp_path / "lake"})
    write_ratings(tmp_path)
    whole: dict[str, set[bytes]] = {RAW: set(), PUBLISHED: set()}
    for number, rules in enumerate(RULES):
        work(tmp_path, f"{number}.csv", rules)
        for uri, contents in whole.items():
            contents.add(store.get(uri))
    start_seconds = time.monotonic()
    work(tmp_path, "0.csv", RULES[0])
    took = time.monotonic() - start_seconds
    chance = random.Random(SEED)
    for _ in range(MOMENTS):
        reader, writer = FORKS.Pipe(duplex=False)
        process = FORKS.Process(target=keep_working, args=(tmp_path, writer))
        process.start()
        assert reader.poll(600)
        time.sleep(chance.random() * 3 * took)
        process.kill()
        process.join()
        assert {info.uri for info in store.list("s3://lake/")} == set(whole)
        for uri, contents in whole.items():
            assert store.get(uri) in contents
        assert (tmp_path / "interactions.csv").read_bytes() in whole[PUBLISHED]
    # What killed processes left does not disturb later ones.
    for number, rules in enumerate(RULES):
        work(tmp_path, f"{number}.csv", rules)
        assert store.get(PUBLISHED) == (tmp_path / "interactions.csv").read_bytes()
