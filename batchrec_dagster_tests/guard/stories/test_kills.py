"""Tests of processes that end at any time.

Runs, Personalize and S3 are killed by kill -9. Publications, rollbacks, erasures and preparations
end at any of their writes. In the end the lists are right, and nothing was done twice.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster_tests.guard.builders import (
    Project,
    interactions,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.crashes import crash_at, crash_at_each_write
from batchrec_dagster_tests.guard.first_run import DECLARATION, FirstRun
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.seams.publishing import Editions, NightsWork, PublishedEdition
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.night import Night, made_once, night
from batchrec_dagster_tests.guard.servers.s3 import S3Server, find_ports, s3_server

pytestmark = pytest.mark.slow

SEED = 7
RUNS_KILLED = repeats(5)


def seconds_of_a_night(night: Night) -> float:
    begin = time.monotonic()
    assert not night.start_run().end()
    return time.monotonic() - begin


def test_a_run_that_is_killed_goes_on(tmp_path: Path, s3: S3Server) -> None:
    chance = random.Random(SEED)
    with night(tmp_path, s3) as shop:
        shop.start_personalize()
        length = seconds_of_a_night(shop)
        lists_before = shop.lists()
        shop.new_data(1)
        expected = shop.make_expected_lists(tmp_path / "expected")
        for _ in range(RUNS_KILLED):
            run = shop.start_run()
            time.sleep(chance.random() * length)
            run.kill()
            lists = shop.lists()
            assert lists.equals(lists_before) or lists.equals(expected)
        assert not shop.start_run().end()
        assert_frame_equal(shop.lists(), expected)
        assert shop.count_jobs() == made_once(2)


@nightly("runs on servers of their own")
def test_personalize_that_is_killed_goes_on(tmp_path: Path, s3: S3Server) -> None:
    chance = random.Random(SEED)
    with night(tmp_path, s3) as shop:
        shop.start_personalize()
        length = seconds_of_a_night(shop)
        shop.new_data(1)
        run = shop.start_run()
        for _ in range(repeats(3)):
            time.sleep(chance.random() * length / 3)
            shop.kill_personalize()
            shop.start_personalize()
        assert not run.end()
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        # A killed job has failed, and is replaced.
        jobs = {kind: jobs for kind, jobs in shop.count_jobs().items() if "failed" not in kind}
        assert jobs == made_once(2)


@nightly("runs on servers of their own")
def test_s3_that_is_killed_comes_back_and_the_night_goes_on(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    ports = find_ports()
    (tmp_path / "s3").mkdir()
    with ExitStack() as servers:
        server = servers.enter_context(s3_server(tmp_path / "s3", ports))
        (tmp_path / "night").mkdir()
        shop = servers.enter_context(night(tmp_path / "night", server))
        shop.start_personalize()
        length = seconds_of_a_night(shop)
        shop.new_data(1)
        run = shop.start_run()
        time.sleep(chance.random() * length)
        server.process.kill()
        servers.enter_context(s3_server(tmp_path / "s3", ports))
        assert not run.end()
        assert_frame_equal(shop.lists(), shop.make_expected_lists(tmp_path / "expected"))
        assert shop.count_jobs() == made_once(2)


LETTERS = "ABCDE"
TIME = datetime(2026, 1, 5, 3, tzinfo=UTC)


def make(letter: str) -> NightsWork:
    """Return the work of the night with this letter.

    The work has a list of 30 items with the letter, and a list of a person who may be erased.
    """
    users, ranks = ["1"] * 30 + ["gone"], [*range(1, 31), 1]
    rows = {"user_id": users, "rank": ranks, "item_id": [letter] * 31}
    return NightsWork(f"arn:m/{letter}", f"data {letter}", pl.DataFrame(rows), TIME)


def read_letter(edition: PublishedEdition | None) -> str:
    """Return the letter of the night, and require that the edition has its whole list."""
    assert edition is not None
    assert edition.lists.filter(user_id="1").height == 30
    (letter,) = edition.lists.get_column("item_id").unique()
    return str(letter)


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Yield a function that makes a new storage."""
    if request.param == "folder":
        numbers = itertools.count()
        yield lambda: Store.open(tmp_path / f"{next(numbers)}")
    else:
        s3: S3Server = request.getfixturevalue("s3")
        yield lambda: Store.open(f"s3://{s3.create_bucket()}", s3.environment())


def publish_a_sixth(editions: Editions) -> None:
    editions.publish(make("F"))


def roll_back(editions: Editions) -> None:
    editions.roll_back(3, run="run", time=TIME)


def erase_somebody(editions: Editions) -> None:
    editions.erase(["gone"])


@pytest.mark.parametrize(
    ("change", "new"), [(publish_a_sixth, "F"), (roll_back, "C"), (erase_somebody, "E")]
)
def test_a_process_that_ends_at_any_write_leaves_whole_editions_and_the_next_goes_on(
    root: Callable[[], Store],
    tmp_path: Path,
    change: Callable[[Editions], None],
    new: str,
) -> None:
    live_after: list[str] = []
    for write in itertools.count():
        editions = Editions(root(), kept=3)
        for letter in LETTERS:
            editions.publish(make(letter))
        with crash_at(write, tmp_path) as crash:
            change(editions)
        live = read_letter(editions.live())
        assert {read_letter(edition) for edition in editions.older()} >= {*"BCDE"} - {live, "B"}
        live_after.append(live)
        change(editions)
        assert read_letter(editions.live()) == new
        if change is erase_somebody:
            assert not [edition for edition in editions.older() if "gone" in edition.users]
        # Leftover files are deleted with the files that are no longer kept.
        for letter in "XYZ":
            editions.publish(make(letter))
        older = editions.older()
        assert [read_letter(edition) for edition in older[:2]] == ["Y", "X"]
        assert len(older) == 3
        if not crash.has_happened:
            break
    assert len(live_after) > 1
    assert live_after == sorted(live_after, key=["E", new].index)
    assert live_after[-1] == new


PREPARED = ["raw_ratings", "interactions", "batch_users"]


def test_a_preparation_that_ends_at_any_write_is_made_whole_by_the_next(
    project: Project, instance: dg.DagsterInstance, first_run: FirstRun
) -> None:
    first_run.copy_to(project, instance)
    write_ratings(project.root / "ratings.csv", seed=1)
    lists = project.storage / "shop/curated/recommendations/recommendations.parquet"
    before = lists.read_bytes()
    crashes = crash_at_each_write(
        lambda: refresh(project, "shop", instance, assets=PREPARED), project.storage
    )
    assert len([*crashes]) > 3
    assert lists.read_bytes() == before
    undisturbed = project.root / "undisturbed"
    undisturbed.mkdir()
    other = module_project(undisturbed)
    write_ratings(undisturbed / "ratings.csv", seed=1)
    other.declare(DECLARATION)
    assert refresh(other, "shop", instance, assets=PREPARED).success
    assert interactions(project, "shop").equals(interactions(other, "shop"))
