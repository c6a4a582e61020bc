"""What each night published, or why it published nothing: rows and text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.reporting.insight.nights import (
    ListedNight,
    describe_nights,
    describe_settings,
    list_nights,
    read_other_nights,
)
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.measured_ndcg import Estimate
from batchrec_dagster.storage.nights import MOST_OTHER_NIGHTS, Night
from batchrec_dagster_tests.guard.seams.editions import (
    ALONE,
    make_edition,
    make_groups,
    make_popularity,
    restore,
)
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

START = datetime(2026, 11, 20, 3, 10, tzinfo=UTC)


@pytest.fixture
def files(tmp_path: Path) -> ListFiles:
    storage = Storage(root=str(tmp_path / "storage"), s3=S3Connection())
    return ListFiles(storage, ListKeys("shop"))


@pytest.fixture
def files_in_s3(s3: S3Server) -> ListFiles:
    connection = S3Connection(
        endpoint_url=s3.endpoint,
        region_name=REGION,
        aws_access_key_id=OWNER.access,
        aws_secret_access_key=OWNER.secret,
    )
    storage = Storage(root=f"s3://{s3.create_bucket()}/some/prefix", s3=connection)
    return ListFiles(storage, ListKeys("shop"))


def compute_night(number: int) -> datetime:
    return START + timedelta(days=number)


def publish(files: ListFiles, tmp_path: Path, night: int, keep: int = 7, **about: Any) -> None:
    """Publish the next edition in this night, as a run does."""
    number = files.editions.next_number()
    ndcg = 0.2 + number / 100
    with ListWriter(tmp_path / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"], "rank": [1], "item_id": [f"i{number}"]}))
        writer.finish(
            make_edition(
                {
                    "number": number,
                    "version": f"v{number}",
                    "made_at": compute_night(night).isoformat(),
                    "run": f"run {night}",
                    "root_run": f"run {night}",
                    "seconds": 185.0,
                    "cost_usd": 1.5,
                    "metrics": {NDCG: ndcg},
                    "measured_popularity": make_popularity(0.15, days=30),
                    "groups": make_groups(ndcg, margin=0.02),
                    "counts": {"subjects": 1234},
                    "measured_on": "a",
                    **about,
                }
            )
        )
    files.editions.publish(tmp_path / "lists.parquet", keep, ALONE)


def roll_back(files: ListFiles, night: int, edition: Edition) -> None:
    restore(files.editions, edition, compute_night(night), f"run {night}")


def record(files: ListFiles, night: int, ended: Any, step: str, **values: Any) -> None:
    time, facts = compute_night(night) + timedelta(minutes=3), {"seconds": 180.0, "cost_usd": 0.0}
    files.editions.add_night(
        Night(run=f"run {night}", ended=ended, time=time, steps=(step,), **facts, **values)
    )


def live_through_a_week(files: ListFiles, tmp_path: Path) -> list[ListedNight]:
    """Nights of all kinds."""
    publish(files, tmp_path, 0)
    record(
        files, 1, "refused", "recommendations",
        checks=("quality_gate",), ndcg=Estimate(value=0.1, low=0.08, high=0.12),
    )  # fmt: skip
    record(files, 2, "failed", "raw_ratings")
    publish(files, tmp_path, 3)
    roll_back(files, 4, files.editions.older()[0])
    record(files, 5, "unchanged", "recommendations")
    publish(files, tmp_path, 6)
    # A sink failed after the publication.
    record(files, 6, "failed", "recommendations_in_postgres")
    return list_nights(files)


def test_a_list_has_its_own_nights_and_those_in_which_all_lists_failed(
    files: ListFiles,
) -> None:
    home, app = (ListFiles(files.storage, ListKeys(f"shop/{name}")) for name in ("home", "app"))
    record(files, 1, "failed", "raw_ratings")
    record(home, 2, "refused", "recommendations")
    record(app, 3, "unchanged", "recommendations")
    assert [night.run for night in read_other_nights(home)] == ["run 1", "run 2"]
    assert [night.run for night in read_other_nights(app)] == ["run 1", "run 3"]


def test_each_night_has_a_row_that_says_how_it_ended(files: ListFiles, tmp_path: Path) -> None:
    nights = live_through_a_week(files, tmp_path)
    assert [(night.edition, night.summary) for night in nights] == [
        (1, "published"),
        (None, "refused by quality_gate"),
        (None, "failed at raw_ratings"),
        (2, "rolled back"),
        (1, "restored: 2 rolled back"),
        (None, "unchanged"),
        (3, "published, live; failed at recommendations_in_postgres"),
    ]
    assert [night.time.date().day for night in nights if night.time] == [20, 21, 22, 23, 24, 25, 26]
    first, refused = nights[:2]
    assert first.ndcg is not None
    assert first.ndcg.value == pytest.approx(0.21)
    assert (first.users, first.cost_usd, first.seconds) == (1234, 1.5, 185.0)
    assert first.until == nights[3].time
    assert refused.ndcg == Estimate(value=0.1, low=0.08, high=0.12)


def test_the_rows_in_s3_are_the_same(
    files: ListFiles, files_in_s3: ListFiles, tmp_path: Path
) -> None:
    in_a_folder = live_through_a_week(files, tmp_path)
    assert live_through_a_week(files_in_s3, tmp_path) == in_a_folder
    files_in_s3.editions.remove_nights("run 2", "raw_ratings")
    assert len(list_nights(files_in_s3)) == len(in_a_folder) - 1


def test_facts_survive_the_edition(files: ListFiles, tmp_path: Path) -> None:
    for night in range(4):
        publish(files, tmp_path, night, keep=1)
    assert [edition.number for edition in files.editions.older()] == [3]
    ndcgs = [night.ndcg.value for night in list_nights(files) if night.ndcg is not None]
    assert ndcgs == pytest.approx([0.21, 0.22, 0.23, 0.24])


def test_a_retry_that_succeeds_is_one_night(files: ListFiles, tmp_path: Path) -> None:
    record(files, 0, "failed", "raw_ratings")
    record(files, 0, "failed", "item_titles")
    (failed,) = list_nights(files)
    assert failed.steps == ("raw_ratings", "item_titles")
    publish(files, tmp_path, 0, made_at=(START + timedelta(hours=1)).isoformat())
    (night,) = list_nights(files)
    assert night.summary == "published, live"
    files.editions.remove_nights("run 0", "raw_ratings")
    assert [night.steps for night in read_other_nights(files)] == [("item_titles",)]


def test_the_records_do_not_grow_forever(files: ListFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_OTHER_NIGHTS > 366
    monkeypatch.setattr("batchrec_dagster.storage.nights.MOST_OTHER_NIGHTS", 3)
    for night in range(5):
        record(files, night, "failed", "raw_ratings")
    assert len(read_other_nights(files)) == 3


def test_json_has_all_nights_newest_first(files: ListFiles, tmp_path: Path) -> None:
    described = describe_nights("shop", live_through_a_week(files, tmp_path))
    assert described["pipeline"] == "shop"
    newest = described["nights"][0]
    assert newest["time"] == "2026-11-26T03:10:00+00:00"
    assert (newest["edition"], newest["is_live"]) == (3, True)
    assert len(described["nights"]) == 7


def test_metrics_that_cannot_be_compared_are_told(files: ListFiles, tmp_path: Path) -> None:
    assert describe_settings(live_through_a_week(files, tmp_path)) == ""
    publish(files, tmp_path, 7, measured_on="b")
    assert "cannot be compared" in describe_settings(list_nights(files))
