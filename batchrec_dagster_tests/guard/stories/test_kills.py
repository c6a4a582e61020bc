"""kill -9 of each of the three: run, Personalize, S3. In the end the right lists are published, and
nothing was done twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster_tests.guard.repeats import repeats
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
        assert shop.count_jobs() == made_once(2)


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
