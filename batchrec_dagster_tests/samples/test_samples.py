"""Tests that the demo's generated data have the form, size and patterns of HetRec's data."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from batchrec_dagster.samples import generator

pytestmark = pytest.mark.slow

RATINGS = "user_ratedmovies-timestamps.dat"


def test_the_ratings_are_like_hetrecs_and_the_same_each_time() -> None:
    file, movies_file = (generator.FILES[name]() for name in (RATINGS, "movies.dat"))
    assert generator.FILES[RATINGS]() == file
    assert generator.FILES["movies.dat"]() == movies_file
    assert file.startswith(b"userID\tmovieID\trating\ttimestamp\n")
    assert file.endswith(b"\n")
    assert not {b"\r", b'"'} & {bytes([byte]) for byte in file}
    ratings, movies = (pl.read_csv(text, separator="\t") for text in (file, movies_file))
    assert ratings.height == 855_598
    assert (ratings["userID"].n_unique(), ratings["movieID"].n_unique()) == (2_113, 10_109)
    assert not ratings.select("userID", "movieID").is_duplicated().any()
    per_user = ratings.group_by("userID").len()["len"]
    assert per_user.min() == 20
    assert per_user.log().std() == pytest.approx(1, abs=0.1)
    # Ratings are in half stars, and halves start in 2003. Users like most films that they choose.
    assert sorted(ratings["rating"].unique()) == list(np.arange(0.5, 5.5, 0.5))
    assert ratings["rating"].mean() == pytest.approx(3.44, abs=0.1)
    time = pl.from_epoch("timestamp", time_unit="ms")
    early = ratings.filter(time < datetime(2003, 2, 18))
    assert (early["rating"] % 1 == 0).all()
    days = ratings.select(time.dt.date()).to_series()
    assert date(1997, 9, 17) <= days.min() <= days.max() <= date(2009, 1, 6)  # type: ignore[operator]
    # A few films have most ratings, each has a title, and none is rated before its year.
    counts = ratings.group_by("movieID").len()["len"].sort(descending=True)
    assert counts.head(1000).sum() > 0.4 * ratings.height
    assert set(movies["movieID"]) == set(ratings["movieID"])
    assert movies["title"].n_unique() == movies.height
    joined = ratings.join(movies, on="movieID")
    assert joined.filter(time.dt.year() < pl.col("year")).is_empty()
