"""`sample://hetrec`: generated films and ratings, shaped like MovieLens HetRec 2011.

The real set may not be redistributed. The generated set has the same file formats, the same numbers
of users, movies and ratings, and the patterns that recommenders learn from: shared tastes,
popularity, sessions and drift.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.samples.population import (
    GENRES,
    LENGTH,
    MOVIES,
    RATINGS,
    USERS,
    Floats,
    Ints,
    Movies,
    Users,
    make_movies,
    make_users,
    parse_day,
)
from batchrec_dagster.samples.titles import make_titles

SEED = 2011
# Increase the version with every change to a byte of the files.
FINGERPRINT = f"version 2, seed {SEED}"

# MovieLens has had half stars since this day: https://grouplens.org/datasets/movielens/ (ml-10m).
HALF_STARS_SECOND = parse_day("2003-02-18")
# The affinity of a movie and a user if the movie's traits and the user's two tastes are all equal.
FULL_AFFINITY = 2 * LENGTH * LENGTH
BLOCK = 128


def generate_ratings() -> pl.DataFrame:
    """Return the ratings in order of user and movie.

    The columns are userID and movieID (i64), rating (a string from 0.5 to 5) and timestamp (i64, in
    milliseconds).
    """
    movies = make_movies(_make_rng(0))
    users = make_users(_make_rng(1), movies)
    user, movie, affinity, drift = _choose_movies(users, movies)
    rng = _make_rng(3)
    # Movies that suit the late taste are rated late, and famous movies are rated early.
    fame = np.log(movies.weights * MOVIES)[movie]
    position = 1.5 * rng.standard_normal(RATINGS) + 2.0 * drift - 0.12 * fame
    rating_times = _draw_rating_times(rng, users, user, movies.release_times[movie], position)

    stars = (
        3.42
        + users.leniency[user]
        + movies.qualities[movie]
        + 1.2 * (affinity - affinity.mean())
        + 0.85 * rng.standard_normal(RATINGS)
    )
    gives_whole_stars = users.whole_stars[user] | (rating_times < HALF_STARS_SECOND)
    half_stars = np.where(
        gives_whole_stars, 2 * np.clip(np.rint(stars), 1, 5), np.clip(np.rint(2 * stars), 1, 10)
    )
    return pl.DataFrame(
        {
            "userID": users.ids[user],
            "movieID": movies.ids[movie],
            "rating": pl.Series([f"{half / 2:g}" for half in range(11)]).gather(
                half_stars.astype(int)
            ),
            "timestamp": rating_times * 1000,
        }
    )


def generate_movies() -> pl.DataFrame:
    """Return the movies in order of id.

    The columns are movieID (i64), title (str), year (i64) and genres (str, joined by |).
    """
    movies = make_movies(_make_rng(0))
    genres = np.array(GENRES)
    return pl.DataFrame(
        {
            "movieID": movies.ids,
            "title": make_titles(_make_rng(4), [GENRES[genre] for genre in movies.first_genres]),
            "year": movies.years,
            "genres": ["|".join(sorted(genres[row])) for row in movies.genres],
        }
    )


def _make_rng(step: int) -> np.random.Generator:
    """Return the generator of a step's random numbers, which do not depend on other steps."""
    return np.random.default_rng([SEED, step])


def _write_tab_separated(table: pl.DataFrame) -> bytes:
    return table.write_csv(separator="\t", quote_style="never").encode()


# The files of sample://hetrec: tab-separated with a header, UTF-8. The ratings are 20 MB.
FILES: Mapping[str, Callable[[], bytes]] = {
    "user_ratedmovies-timestamps.dat": lambda: _write_tab_separated(generate_ratings()),
    "movies.dat": lambda: _write_tab_separated(generate_movies()),
}


def _choose_movies(users: Users, movies: Movies) -> tuple[Ints, Ints, Floats, Floats]:
    """Return each rating's user, movie, affinity and drift, in order of user and movie.

    The affinity is at most about 1. The drift says how much more the movie suits the user's late
    taste than the user's early taste.

    Movies are drawn without replacement, weighted by popularity and affinity. Each movie has an
    exponential variate with its weight as the rate, and a user gets the movies with the smallest
    variates (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    rng = _make_rng(2)
    last_seen = users.session_starts[users.first_session[1:] - 1]
    first_fan = _choose_first_fans(rng, users, movies, last_seen)
    scarcity = (movies.weights.min() / movies.weights).astype(np.float32)
    # The last digits of exp() differ between processors. Affinities are whole numbers, so a table
    # holds the exp() of each possible affinity, computed in float64 and rounded to float32. The
    # table reaches to twice FULL_AFFINITY, because the rounded vectors of traits and tastes may be
    # a little longer than LENGTH.
    affinities = np.arange(-2 * FULL_AFFINITY, 2 * FULL_AFFINITY + 1)
    reluctance = np.exp(-14.0 / FULL_AFFINITY * affinities).astype(np.float32)

    def choose_for_block(first_user: int, keys: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Return the movies of a block of users, with each movie's early and late affinity.

        keys: the variates of the block's users, of shape (users, MOVIES). They are overwritten.
        """
        block = slice(first_user, first_user + BLOCK)
        early = users.early_tastes[block] @ movies.traits.T
        late = users.late_tastes[block] @ movies.traits.T
        keys *= reluctance[(early + late).astype(np.int32) + 2 * FULL_AFFINITY]
        keys *= scarcity
        keys[movies.release_times > last_seen[block, None]] = np.inf
        certain_movies = np.flatnonzero(first_fan // BLOCK == first_user // BLOCK)
        keys[first_fan[certain_movies] - first_user, certain_movies] = 0
        rows = []
        for row, count in enumerate(users.rating_counts[block]):
            largest_key = np.partition(keys[row], count - 1)[count - 1]
            movie = np.flatnonzero(keys[row] <= largest_key)[:count]
            rows.append((movie, early[row, movie], late[row, movie]))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def draw_variates(first_user: int) -> npt.NDArray[np.float32]:
        shape = min(BLOCK, USERS - first_user), MOVIES
        return rng.standard_exponential(shape, dtype=np.float32)

    block_starts = range(0, USERS, BLOCK)
    # numpy lets other threads work, so the next variates are drawn while movies are chosen.
    with ThreadPoolExecutor() as pool:
        blocks = list(pool.map(choose_for_block, block_starts, map(draw_variates, block_starts)))
    movie, early, late = (np.concatenate(column) for column in zip(*blocks, strict=True))
    affinity = (early + late).astype(np.float64) / FULL_AFFINITY
    drift = (late - early).astype(np.float64) / (FULL_AFFINITY / 2)
    return np.repeat(np.arange(USERS), users.rating_counts), movie, affinity, drift


def _choose_first_fans(
    rng: np.random.Generator, users: Users, movies: Movies, last_seen: Ints
) -> Ints:
    """Return for each movie a user who certainly rates it, so that every movie has ratings.

    The user is the candidate, out of 16, whose early taste the movie suits best. Users with many
    ratings are candidates more often. Users who were last active before the movie came out are
    ruled out. One candidate of each movie is the user who was active last, whom no release rules
    out.
    """
    candidates = rng.choice(USERS, (MOVIES, 16), p=users.rating_counts / users.rating_counts.sum())
    candidates[:, 0] = np.argmax(last_seen)
    liking = np.einsum("mt,mct->mc", movies.traits, users.early_tastes[candidates])
    liking[movies.release_times[:, None] > last_seen[candidates]] = -np.inf
    return np.asarray(candidates[np.arange(MOVIES), np.argmax(liking, axis=1)])


def _draw_rating_times(
    rng: np.random.Generator, users: Users, user: Ints, release_times: Ints, position: Floats
) -> Ints:
    """Return the time of each rating in epoch seconds, always after the movie's release.

    position: the lateness of the rating in the user's time. A larger number means a later rating.
    """
    session_user = np.repeat(np.arange(USERS), np.diff(users.first_session))
    # All users share one axis of time: each user begins after the last second of the previous user.
    axis = 4 * 10**9
    sessions_before_release = np.searchsorted(
        session_user * axis + users.session_starts, user * axis + release_times
    )
    earliest = np.where(
        sessions_before_release > users.first_session[user],
        users.session_shares[sessions_before_release - 1],
        0,
    )

    shares = 1 / (1 + np.exp(-position))
    # New movies are seen soon after their release.
    shares = np.where(earliest > 0, earliest + (1 - earliest) * shares**2, shares)
    session = np.searchsorted(session_user + users.session_shares, user + shares * (1 - 1e-9))

    order = np.lexsort((shares, session))
    session = session[order]
    elapsed = np.cumsum(np.rint(rng.exponential(9, RATINGS)).astype(np.int64))
    first_ratings = np.flatnonzero(np.diff(session, prepend=-1))
    elapsed_at_start = np.repeat(elapsed[first_ratings], np.diff(np.append(first_ratings, RATINGS)))
    rating_times = np.empty(RATINGS, dtype=np.int64)
    rating_times[order] = users.session_starts[session] + elapsed - elapsed_at_start
    return rating_times
