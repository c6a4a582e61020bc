"""Interactions without times: `columns.timestamp: none`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.local_personalize.learning.blend import BlendModel
from batchrec_dagster.local_personalize.learning.train_blend import train_blend
from batchrec_dagster.preparation.layout import CONSTANT_TIME, PreparationError
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.prepare import open_ratings
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.rules import Rules
from batchrec_dagster_tests.guard.builders import Project, declaration, metadata, refresh
from batchrec_dagster_tests.local_personalize.learning.support import interactions_of

PLAYS = "user\tartist\tplays\nu1\ta\t3\nu1\tb\t1\nu2\ta\t7\n"


def build_pipeline(ratings: dict[str, Any], **attributes: Any) -> Pipeline:
    return Pipeline.model_validate({"name": "fm", "ratings": ratings, **attributes})


@pytest.mark.parametrize("bad", ["", "NULL\ta\t2\n"], ids=["typed", "careful"])
def test_every_row_gets_the_same_time(tmp_path: Path, bad: str) -> None:
    (tmp_path / "plays.tsv").write_text(PLAYS + bad)
    pipeline_without_times = build_pipeline(
        {
            "source": "plays.tsv",
            "columns": {"user": "user", "item": "artist", "timestamp": "none"},
            "on_bad_rows": "skip",
        },
        interactions={"filter": "plays > 1"},
    )
    file = RawFile(tmp_path / "plays.tsv", "plays.tsv")
    with open_ratings(
        [file], pipeline_without_times.ratings.reading, pipeline_without_times.rules
    ) as read:
        result = read.write_interactions(tmp_path / "interactions.csv")
        assert read.inspect_rows().timestamp_unit == "none"
    assert result.timestamp_unit == "none"
    rows = (tmp_path / "interactions.csv").read_text().splitlines()[1:]
    assert rows == [f"u1,a,{CONSTANT_TIME},rating", f"u2,a,{CONSTANT_TIME},rating"]


def test_the_others_may_be_given_by_position(tmp_path: Path) -> None:
    (tmp_path / "plays.tsv").write_text("u1\ta\t3\n")
    columns = {"user": 1, "item": 2, "timestamp": "none"}
    reading = build_pipeline({"source": "p", "delimiter": "\t", "columns": columns}).ratings.reading
    with open_ratings([RawFile(tmp_path / "plays.tsv", "p")], reading, Rules()) as read:
        read.write_interactions(tmp_path / "interactions.csv")
    assert (tmp_path / "interactions.csv").read_text().endswith(f"u1,a,{CONSTANT_TIME}\n")


def test_without_it_a_time_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "plays.tsv").write_text(PLAYS)
    reading = ReadSettings(columns={"user": "user", "item": "artist"})
    with (
        pytest.raises(PreparationError, match=r"set ratings\.columns\.timestamp: none"),
        open_ratings([RawFile(tmp_path / "plays.tsv", "p")], reading, Rules()),
    ):
        pass


@pytest.mark.parametrize(
    ("ratings", "attributes", "message"),
    [
        ({}, {"interactions": {"window": {"days": 3}}}, "interactions.window needs: omit it"),
        ({}, {"interactions": {"latest_per_pair": True}}, "interactions.latest_per_pair needs"),
        ({}, {"batch_users": {"active_since": "2020-01-01"}}, "batch_users.active_since needs"),
        ({"timestamp_unit": "ms"}, {}, "omit timestamp_unit"),
    ],
)
def test_what_needs_times_is_refused_by_its_name(
    ratings: dict[str, Any], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_pipeline(
            {"source": "a.csv", "columns": {"timestamp": "none"}, **ratings}, **attributes
        )


@pytest.mark.parametrize("times", [True, False])
def test_recency_counts_only_where_there_are_times(times: bool) -> None:
    # The newest item of each user says what comes next.
    rows = [
        (f"u{user}", f"i{(user + step) % 50}", step if times else CONSTANT_TIME)
        for user in range(200)
        for step in range(12)
    ]
    model, measurements = train_blend(interactions_of(rows), {}, 0, lambda _: None)
    assert isinstance(model, BlendModel)
    assert measurements.metrics
    assert any(model.recency_exponents.values()) == times


@pytest.mark.slow
def test_the_report_says_that_there_are_no_times(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = "".join(f"{user},{item}\n" for user in range(60) for item in range(user % 7, 80, 3))
    (project.root / "played.csv").write_text("user_id,item_id\n" + rows)
    ratings = {"source": "played.csv", "columns": {"timestamp": "none"}}
    project.declare(declaration("shop", "played.csv", ratings=ratings, interactions={}))
    result = refresh(project, "shop", instance, report=True)
    assert metadata(result, "raw_ratings")["timestamp_unit"] == "none"
    assert metadata(result, "interactions")["timestamp_unit"] == "none"
    page = (project.storage / "shop/curated/report/index.html").read_text()
    assert "items, without times, so that what is recent counts no more" in page
    assert "played.csv, without times" in page
