"""Tests that a pipeline makes the same table by Personalize over HTTP as by the embedded one.

The embedded engine's filter knows all interactions. A real endpoint's filter knows the last 100 of
a user, so the pipeline requests more results and drops seen items.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    declaration,
    module_project,
    real_data,
    refresh,
)
from batchrec_dagster_tests.guard.example_shop import write_example_shop
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.night import TABLE, night
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

FILTER_HISTORY = 100
MAX_RESULTS = 500
ITEMS = {"source": "movies.csv", "columns": {"item": "movieId", "categories": {"GENRES": "genres"}}}

# Half of the people get lists of even films only, and one in four people gets no list.
ON_USERS: dict[str, Any] = {
    "users": {
        "source": "users.csv",
        "columns": {"user": "id", "categories": {"CONSENT": "consent"}, "numbers": {"AGE": "age"}},
    },
    "batch_users": {"filter": 'USERS.CONSENT = "yes"'},
}
FILTER_BY_AGE = 'EXCLUDE ItemID WHERE Items.GENRES = "odd" IF CurrentUser.AGE < 20'


def _write_long_histories(folder: Path) -> None:
    """Write ratings by 40 people of two tastes, mostly 165 each, and films that nobody rated."""
    chance = random.Random(0)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(40):
        films_of_taste = [film for film in range(400) if film % 2 == user % 2]
        other_half = [film for film in range(400) if film % 2 != user % 2]
        count = 150 if user % 4 else 40
        for film in [
            *chance.sample(films_of_taste, count),
            *chance.sample(other_half, count // 10),
        ]:
            lines.append(f"{user},{film},5,{1_500_000_000 + chance.randrange(10**7)}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    films = [f"{film},{('even', 'odd')[film % 2]}" for film in range(440)]
    (folder / "movies.csv").write_text("\n".join(["movieId,genres", *films]) + "\n")
    users = [f"{user},{'yes' if user % 4 else 'no'},{user}" for user in range(40)]
    (folder / "users.csv").write_text("\n".join(["id,consent,age", *users]) + "\n")


def _copy_real_films(folder: Path) -> None:
    for name in ("ratings.csv", "movies.csv"):
        shutil.copy(real_data("ml-latest-small") / name, folder)


def _make_embedded(root: Path, files: Path, settings: dict[str, Any]) -> pl.DataFrame:
    root.mkdir()
    project: Project = module_project(root)
    for file in files.glob("*.csv"):
        shutil.copy(file, root)
    project.declare(declaration("shop", "ratings.csv", **settings))
    with dg.DagsterInstance.ephemeral() as instance:
        assert refresh(project, "shop", instance).success
    return pl.read_parquet(project.storage / TABLE)


# histories of two lengths, and real data
LONG_HISTORIES = [(_write_long_histories, 10), (_write_long_histories, 25), (_copy_real_films, 10)]


@nightly("two runs on servers more")
@pytest.mark.parametrize(("write_files", "num_results"), LONG_HISTORIES)
def test_long_histories_get_the_same_lists_over_http_as_embedded(
    tmp_path: Path, s3: S3Server, write_files: Any, num_results: int
) -> None:
    settings = {"items": ITEMS, "recommendations": {"num_results": num_results}}
    root = tmp_path / "http"
    root.mkdir()
    with night(root, s3, settings=settings) as shop:
        write_files(root)
        shop.start_personalize()
        assert not shop.start_run().end()
        over_http = pl.read_parquet(s3.store().get(f"s3://{shop.bucket}/{TABLE}"))
    ratings = pl.read_csv(root / "ratings.csv")
    liked_ratings = ratings.filter(pl.col(COLUMNS["rating"]) >= 3.5)
    lengths = liked_ratings.group_by("userId").len()
    assert lengths.filter(pl.col("len") > FILTER_HISTORY).height >= 30
    rated_items = set(liked_ratings["movieId"].cast(pl.String))
    assert not set(over_http["item_id"]) <= rated_items  # there are new items in the lists
    embedded_lists = _make_embedded(tmp_path / "embedded", root, settings)
    order = ["user_id", "rank"]
    # Among 500 results, Personalize's maximum, too few may be new to a person with more films.
    most = FILTER_HISTORY + MAX_RESULTS - num_results
    people = lengths.filter(pl.col("len") <= most)["userId"].cast(pl.String)
    over_http, embedded_lists = (
        lists.filter(pl.col("user_id").is_in(people.implode()))
        for lists in (over_http, embedded_lists)
    )
    # Two models were trained. Sums by several threads differ in the last digits.
    assert_frame_equal(
        over_http.sort(order),
        embedded_lists.sort(order),
        check_exact=False,
        rel_tol=0,
        abs_tol=1e-6,
    )


@nightly("two runs on servers more")
def test_conditions_on_users_hold_over_http_as_embedded(tmp_path: Path, s3: S3Server) -> None:
    settings = {
        **ON_USERS,
        "items": ITEMS,
        "solution": {"recipe": "aws-user-personalization"},
        # The length exceeds the number of even films, so that users who may get odd films do.
        "recommendations": {"num_results": 250, "exclude_seen": False, "filter": FILTER_BY_AGE},
    }
    root = tmp_path / "http"
    root.mkdir()
    with night(root, s3, settings=settings) as shop:
        _write_long_histories(root)
        shop.start_personalize()
        assert not shop.start_run().end()
        over_http = pl.read_parquet(s3.store().get(f"s3://{shop.bucket}/{TABLE}"))
    user, item = (over_http[name].cast(pl.Int64) for name in ("user_id", "item_id"))
    assert set(user) == {user for user in range(40) if user % 4}
    assert set(user.filter(item % 2 == 1)) == {user for user in range(20, 40) if user % 4}
    embedded_lists = _make_embedded(tmp_path / "embedded", root, settings)
    assert_frame_equal(over_http, embedded_lists)


@nightly("two runs of the whole shop")
def test_the_example_shop_gets_the_same_lists_over_http_as_embedded(
    tmp_path: Path, s3: S3Server
) -> None:
    """The shop has all its rules. Its storage is in S3 and in a folder."""
    root = tmp_path / "http"
    root.mkdir()
    settings = write_example_shop(root)
    with night(root, s3, settings=settings) as shop:
        shop.start_personalize()
        assert not shop.start_run().end()
        over_http = pl.read_parquet(s3.store().get(f"s3://{shop.bucket}/{TABLE}"))
    project = module_project(tmp_path / "embedded")
    project.declare({"name": "shop", **write_example_shop(project.root)})
    with dg.DagsterInstance.ephemeral() as instance:
        assert refresh(project, "shop", instance).success
    assert {"pinned", "popular", "popular in AT"} <= set(over_http["reason"])
    assert_frame_equal(over_http, pl.read_parquet(project.storage / TABLE))
