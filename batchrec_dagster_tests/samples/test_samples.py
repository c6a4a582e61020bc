import hashlib
from datetime import date, datetime

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from batchrec_dagster.samples import generator


@pytest.fixture(scope="module")
def file() -> bytes:
    return generator.FILES["user_ratedmovies-timestamps.dat"]()


@pytest.fixture(scope="module")
def ratings(file: bytes) -> pl.DataFrame:
    return pl.read_csv(file, separator="\t")


@pytest.fixture(scope="module")
def movies() -> pl.DataFrame:
    return pl.read_csv(generator.FILES["movies.dat"](), separator="\t")


@pytest.mark.slow
def test_the_file_has_hetrecs_format(file: bytes) -> None:
    header, first = file.split(b"\n", 2)[:2]
    assert header == b"userID\tmovieID\trating\ttimestamp"
    user, movie, stars, milliseconds = first.split(b"\t")
    assert user.isdigit()
    assert movie.isdigit()
    assert float(stars) in np.arange(0.5, 5.5, 0.5)
    assert len(milliseconds) == 13
    assert file.endswith(b"\n")
    assert b"\r" not in file
    assert b'"' not in file


@pytest.mark.slow
def test_it_has_hetrecs_size(ratings: pl.DataFrame) -> None:
    assert ratings.height == 855_598
    assert ratings["userID"].n_unique() == 2_113
    assert ratings["movieID"].n_unique() == 10_109
    assert ratings.null_count().row(0) == (0, 0, 0, 0)


@pytest.mark.slow
def test_nobody_rates_a_movie_twice_or_fewer_than_twenty(ratings: pl.DataFrame) -> None:
    assert not ratings.select("userID", "movieID").is_duplicated().any()
    counts = ratings.group_by("userID").len()["len"]
    assert counts.min() == 20
    assert counts.max() <= 3_400  # type: ignore[operator]
    assert counts.log().std() == pytest.approx(1, abs=0.1)


def test_stars_are_halves_from_one_half_to_five(ratings: pl.DataFrame) -> None:
    assert sorted(ratings["rating"].unique()) == list(np.arange(0.5, 5.5, 0.5))
    rating_counts = ratings.group_by("rating").len().sort("len", descending=True)
    assert rating_counts["rating"][0] == 4
    assert ratings["rating"].mean() == pytest.approx(3.44, abs=0.1)


def test_times_are_milliseconds_within_hetrecs_years(ratings: pl.DataFrame) -> None:
    day = pl.from_epoch("timestamp", time_unit="ms").dt.date()
    first, last = date(1997, 9, 17), date(2009, 1, 6)
    assert ratings.select(day.is_between(first, last).all()).item()
    assert (ratings["timestamp"] % 1000 == 0).all()


def test_half_stars_start_in_2003(ratings: pl.DataFrame) -> None:
    early = pl.from_epoch("timestamp", time_unit="ms") < datetime(2003, 2, 18)
    half = pl.col("rating") % 1 > 0
    assert ratings.select((early & half).any()).item() is False
    assert 0.3 < ratings.filter(~early).select(half.mean()).item() < 0.5


def test_users_rate_many_movies_a_session_and_return(ratings: pl.DataFrame) -> None:
    by_user = ratings.sort("userID", "timestamp").group_by("userID", maintain_order=True)
    gaps = by_user.agg(
        gap=pl.col("timestamp").diff().median() / 1000,
        days=pl.col("timestamp").alias("day").floordiv(86_400_000).n_unique(),
    )
    assert gaps.select((pl.col("gap") < 60).mean()).item() > 0.9
    assert gaps.select(pl.col("days").median()).item() >= 5


def test_no_movie_is_rated_before_its_year(ratings: pl.DataFrame, movies: pl.DataFrame) -> None:
    rated_movies = ratings.join(movies, on="movieID")
    assert rated_movies.height == ratings.height
    year = pl.from_epoch("timestamp", time_unit="ms").dt.year()
    assert rated_movies.filter(year < pl.col("year")).is_empty()


def test_a_few_movies_have_most_ratings(ratings: pl.DataFrame) -> None:
    counts = ratings.group_by("movieID").len()["len"].sort(descending=True)
    assert counts.head(1000).sum() > 0.4 * ratings.height
    assert counts.median() < 0.6 * counts.mean()  # type: ignore[operator]


@pytest.mark.slow
def test_a_collaborative_model_beats_popularity(
    ratings: pl.DataFrame,
) -> None:
    """NDCG@25 on the newest tenth of what every tenth user liked: EASE against popularity."""
    liked_ratings = ratings.filter(pl.col("rating") >= 3.5).sort("userID", "timestamp")
    place = pl.int_range(pl.len()).over("userID") / pl.len().over("userID")
    user, movie = (
        liked_ratings[name].rank("dense").to_numpy() - 1 for name in ("userID", "movieID")
    )
    held_out = (user % 10 == 0) & (liked_ratings.select(place).to_series().to_numpy() >= 0.9)
    seen_matrix = np.zeros((user.max() + 1, movie.max() + 1), dtype=np.float32)
    seen_matrix[user[~held_out], movie[~held_out]] = 1
    popularity = seen_matrix.sum(axis=0)

    popular_movies = np.argsort(-popularity)[:1500]
    gram = seen_matrix[:, popular_movies].T @ seen_matrix[:, popular_movies] + 200 * np.eye(
        len(popular_movies), dtype=np.float32
    )
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)

    gains = 1 / np.log2(np.arange(2, 27))

    def measure_ndcg(score: npt.NDArray[np.float32]) -> float:
        values = []
        for row in range(0, len(seen_matrix), 10):
            relevant_movies = movie[held_out & (user == row)]
            top = np.argsort(-np.where(seen_matrix[row] > 0, -np.inf, score[row]))[:25]
            values.append(
                gains[np.isin(top, relevant_movies)].sum() / gains[: len(relevant_movies)].sum()
            )
        return float(np.mean(values))

    score = np.full(seen_matrix.shape, -1e9, dtype=np.float32)
    score[:, popular_movies] = seen_matrix[:, popular_movies] @ weights
    collaborative = measure_ndcg(score)
    popular = measure_ndcg(np.broadcast_to(popularity, seen_matrix.shape))
    assert 0.1 < collaborative < 0.3
    assert collaborative > 1.6 * popular


def test_people_like_what_they_choose(ratings: pl.DataFrame) -> None:
    assert 0.55 < (ratings["rating"] >= 3.5).mean() < 0.65  # type: ignore[operator]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(file: bytes) -> None:
    second_content = generator.FILES["user_ratedmovies-timestamps.dat"]()
    assert hashlib.sha256(second_content).digest() == hashlib.sha256(file).digest()
    assert generator.FILES["movies.dat"]() == generator.FILES["movies.dat"]()


@pytest.mark.slow
def test_another_seed_gives_other_ratings_of_the_same_shape(ratings: pl.DataFrame) -> None:
    other = generator.generate_ratings(seed=7)
    assert other.height == ratings.height
    assert other["userID"].n_unique() == 2_113
    assert other["movieID"].n_unique() == 10_109
    assert other["movieID"].to_list() != ratings["movieID"].to_list()
    assert not other.select("userID", "movieID").is_duplicated().any()
    assert other.group_by("userID").len()["len"].min() == 20


def test_every_movie_has_a_unique_title(ratings: pl.DataFrame, movies: pl.DataFrame) -> None:
    assert set(movies["movieID"]) == set(ratings["movieID"])
    assert movies["title"].n_unique() == movies.height == 10_109
    assert movies["title"].str.len_chars().min() > 3  # type: ignore[operator]
    assert movies["genres"].str.len_chars().min() > 2  # type: ignore[operator]
    assert movies["year"].is_between(1915, 2008).all()
