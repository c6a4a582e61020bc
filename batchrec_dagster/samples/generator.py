"""`sample://hetrec`: generated films and ratings, shaped like MovieLens HetRec 2011.

The real set may not be redistributed. This one has its file formats, its numbers of users, movies
and ratings, and what recommenders learn from: shared tastes, popularity, sessions and drift.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.samples.titles import NOUNS, make_titles

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def _parse_day(day: str) -> int:
    """The epoch second at which the day begins in UTC."""
    return int(np.datetime64(day, "s").astype(np.int64))


SEED = 2011
# Increase the version with every change to a byte of the files.
FINGERPRINT = f"version 2, seed {SEED}"

USERS, MOVIES, RATINGS = 2_113, 10_109, 855_598
FEWEST_RATINGS, MOST_RATINGS = 20, 3_400
FIRST_YEAR, LAST_YEAR = 1915, 2008
DAY = 24 * 60 * 60
FIRST_SECOND, LAST_SECOND = _parse_day("1997-09-17"), _parse_day("2009-01-05")
# HetRec has only users who wrote tags, which MovieLens has had since the end of 2005.
TAGS_SECOND = _parse_day("2006-01-01")
# MovieLens has had half stars since that day: https://grouplens.org/datasets/movielens/ (ml-10m).
HALF_STARS_SECOND = _parse_day("2003-02-18")

GENRES = tuple(NOUNS)
# The share of movies that have each of the genres as their first.
GENRE_SHARES = np.array([23, 20, 11, 8, 6, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 100
NICHES, TRAITS = 60, 24
# Traits and tastes are rounded to whole numbers of this length, so that their products are exact:
# float rounding differs between processors and would select other movies there.
LENGTH = 64
# What a movie's traits and a user's two tastes multiply to when all three are equal.
FULL_AFFINITY = 2 * LENGTH * LENGTH
BLOCK = 128


class Movies(NamedTuple):
    """`n` movies in ascending order of id, and the niches of taste that they belong to.

    An array has one value for each movie, of shape (n,), unless its field says otherwise.
    """

    ids: Ints
    years: Ints
    release_times: Ints
    """In epoch seconds."""
    genres: npt.NDArray[np.bool_]
    """Whether the movie has the genre, of shape (n, genres)."""
    first_genres: Ints
    """Places in GENRES."""
    traits: npt.NDArray[np.float32]
    """Vectors of whole numbers, of shape (n, TRAITS) and of length LENGTH."""
    weights: Floats
    """How likely a movie is to be seen, whatever the user's taste. They sum to 1."""
    qualities: Floats
    """Stars above or below the mean."""
    niches: Floats
    """Unit vectors, of shape (NICHES, TRAITS)."""
    niche_shares: Floats
    """The share of movies in each niche, of shape (NICHES,). They sum to 1."""


class Users(NamedTuple):
    """`n` users in ascending order of id, and their sessions in order of user and time.

    An array has one value for each user, of shape (n,), unless its field says otherwise.
    """

    ids: Ints
    rating_counts: Ints
    early_tastes: npt.NDArray[np.float32]
    """The taste at first: vectors of whole numbers, of shape (n, TRAITS) and of length LENGTH."""
    late_tastes: npt.NDArray[np.float32]
    """The taste in the end, in the same form."""
    leniency: Floats
    """Stars that the user gives above or below what others give."""
    whole_stars: npt.NDArray[np.bool_]
    """Whether the user never gives half stars."""
    first_session: Ints
    """Where each user's sessions begin in the next two fields, of shape (n + 1,)."""
    session_starts: Ints
    """In epoch seconds, of shape (sessions,)."""
    session_shares: Floats
    """The share of the user's ratings given by the session's end, of shape (sessions,).

    That of a user's last session is 1.
    """


def generate_ratings(seed: int = SEED) -> pl.DataFrame:
    """The ratings, in order of user and movie.

    The columns are userID and movieID (i64), rating (a string from 0.5 to 5) and timestamp (i64,
    in milliseconds).
    """
    movies = _make_movies(seed)
    users = _make_users(seed, movies)
    user, movie, affinity, drift = _choose_movies(seed, users, movies)
    rng = np.random.default_rng([seed, 3])
    # Movies that suit the later taste are rated late, famous ones early.
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


def generate_movies(seed: int = SEED) -> pl.DataFrame:
    """The movies, in order of id.

    The columns are movieID (i64), title (str), year (i64) and genres (str, joined by |).
    """
    movies = _make_movies(seed)
    genres = np.array(GENRES)
    return pl.DataFrame(
        {
            "movieID": movies.ids,
            "title": make_titles(seed, [GENRES[genre] for genre in movies.first_genres]),
            "year": movies.years,
            "genres": ["|".join(sorted(genres[row])) for row in movies.genres],
        }
    )


def _write_tab_separated(table: pl.DataFrame) -> bytes:
    return table.write_csv(separator="\t", quote_style="never").encode()


# The files of sample://hetrec: tab-separated with a header, UTF-8. The ratings are 20 MB.
FILES: Mapping[str, Callable[[], bytes]] = {
    "user_ratedmovies-timestamps.dat": lambda: _write_tab_separated(generate_ratings()),
    "movies.dat": lambda: _write_tab_separated(generate_movies()),
}


def _normalize(vectors: Floats) -> Floats:
    """The rows, each scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _round_to_length(vectors: Floats) -> npt.NDArray[np.float32]:
    """The rows, each scaled to LENGTH and rounded to whole numbers."""
    return np.rint(LENGTH * _normalize(vectors)).astype(np.float32)


def _make_movies(seed: int) -> Movies:
    rng = np.random.default_rng([seed, 0])
    ids = np.sort(rng.choice(65_133, MOVIES, replace=False)) + 1

    # A niche is a corner of a genre, with an era of its own: screwball comedies, space operas.
    genre_traits = _normalize(rng.standard_normal((len(GENRES), TRAITS)))
    niche_genre = rng.choice(len(GENRES), NICHES, p=GENRE_SHARES)
    niche_second_genre = rng.choice(len(GENRES), NICHES, p=GENRE_SHARES)
    niche_own_traits = 0.9 * _normalize(rng.standard_normal((NICHES, TRAITS)))
    niches = _normalize(
        genre_traits[niche_genre] + 0.5 * genre_traits[niche_second_genre] + niche_own_traits
    )
    niche_years = LAST_YEAR - np.minimum(rng.exponential(13, NICHES), 60)
    niche_shares = rng.dirichlet(np.full(NICHES, 4.0))

    niche = rng.choice(NICHES, MOVIES, p=niche_shares)
    years = np.rint(niche_years[niche] + rng.laplace(0, 7, MOVIES))
    years = np.clip(years, FIRST_YEAR, LAST_YEAR).astype(np.int64)
    first_day = (years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
    # No later than May, so that every movie still has users left to see it.
    release_times = first_day + rng.integers(0, 150, MOVIES) * DAY

    genres = np.zeros((MOVIES, len(GENRES)), dtype=np.bool_)
    genres[np.arange(MOVIES), niche_genre[niche]] = True
    movies_with_second_genre = np.flatnonzero(rng.random(MOVIES) < 0.7)
    genres[movies_with_second_genre, niche_second_genre[niche][movies_with_second_genre]] = True
    movies_with_third_genre = np.flatnonzero(rng.random(MOVIES) < 0.45)
    genres[
        movies_with_third_genre,
        rng.choice(len(GENRES), len(movies_with_third_genre), p=GENRE_SHARES),
    ] = True

    own_traits = _normalize(rng.standard_normal((MOVIES, TRAITS)))
    traits = _round_to_length(niches[niche] + 0.5 * own_traits)

    # Newer movies are a little better known.
    fame = rng.standard_normal(MOVIES) + 0.02 * (years - years.mean())
    rank = np.empty(MOVIES)
    rank[np.argsort(-fame, kind="stable")] = np.arange(MOVIES)
    # The weights follow the law of Zipf and Mandelbrot. The MovieLens sets fit an exponent near 1,
    # but that is after taste, and the rule that nobody rates a movie twice, have flattened the top.
    # Before that the exponent must be higher.
    weights = (rank + 0.01 * MOVIES) ** -1.8
    qualities = 0.4 * rng.standard_normal(MOVIES) + 0.25 * (1 - 2 * rank / MOVIES)
    weights /= weights.sum()
    first_genres = niche_genre[niche]
    return Movies(
        ids,
        years,
        release_times,
        genres,
        first_genres,
        traits,
        weights,
        qualities,
        niches,
        niche_shares,
    )


def _make_users(seed: int, movies: Movies) -> Users:
    rng = np.random.default_rng([seed, 1])
    ids = np.sort(rng.choice(71_460, USERS, replace=False)) + 75
    rating_counts = _draw_rating_counts(rng)

    # Everyone likes a few niches: some from the start, some discovered later.
    first_niches = rng.dirichlet(1.2 * movies.niche_shares, USERS)
    later_niches = rng.dirichlet(1.2 * movies.niche_shares, USERS)
    own_traits = 0.25 * _normalize(rng.standard_normal((USERS, TRAITS)))
    early_tastes = _round_to_length(
        _normalize((0.8 * first_niches + 0.2 * later_niches) @ movies.niches) + own_traits
    )
    late_tastes = _round_to_length(
        _normalize((0.55 * first_niches + 0.45 * later_niches) @ movies.niches) + own_traits
    )
    leniency = 0.35 * rng.standard_normal(USERS)
    whole_stars = rng.random(USERS) < 0.25
    sessions = _make_sessions(rng, rating_counts)
    return Users(ids, rating_counts, early_tastes, late_tastes, leniency, whole_stars, *sessions)


def _draw_rating_counts(rng: np.random.Generator) -> Ints:
    """How many ratings each user gives: lognormal between the limits, RATINGS in total."""
    draws = np.exp(5.45 + 1.08 * rng.standard_normal(4 * USERS))
    draws = draws[draws < MOST_RATINGS - FEWEST_RATINGS][:USERS]
    excess = draws - draws.min()
    scaled = excess * ((RATINGS - FEWEST_RATINGS * USERS) / excess.sum())
    counts = FEWEST_RATINGS + np.minimum(scaled, MOST_RATINGS - FEWEST_RATINGS).astype(np.int64)
    # The ratings lost to rounding and to the limit go to users who are far from both limits.
    missing_ratings = RATINGS - int(counts.sum())
    middle_users = np.flatnonzero((counts > 5 * FEWEST_RATINGS) & (counts < MOST_RATINGS // 2))
    counts[middle_users] += missing_ratings // len(middle_users)
    counts[middle_users[: missing_ratings % len(middle_users)]] += 1
    return np.asarray(counts)


def _make_sessions(rng: np.random.Generator, rating_counts: Ints) -> tuple[Ints, Ints, Floats]:
    """The values of `Users.first_session`, `session_starts` and `session_shares`."""
    active_seconds = (rng.beta(1.6, 1.0, USERS) * (LAST_SECOND - TAGS_SECOND)).astype(np.int64)
    last_seconds = TAGS_SECOND + active_seconds
    # The user with most ratings stays to the end, so that somebody can have seen each movie.
    last_seconds[np.argmax(rating_counts)] = LAST_SECOND
    joining_seconds = last_seconds - (rng.exponential(2.5 * 365 * DAY, USERS)).astype(np.int64)
    joining_seconds = np.maximum(joining_seconds, FIRST_SECOND)

    session_counts = 2 + rng.poisson(
        np.minimum(rating_counts / 18 * rng.lognormal(-0.3, 0.8, USERS), 400)
    )
    first = np.concatenate([[0], np.cumsum(session_counts)]).astype(np.int64)
    user = np.repeat(np.arange(USERS), session_counts)
    positions = rng.random(first[-1])
    positions[first[:-1]] = 0
    positions[first[1:] - 1] = 1
    # Sorting user + position sorts the sessions of every user, and keeps the users apart.
    positions = np.sort(user + positions * (1 - 1e-9)) - user
    session_starts = joining_seconds[user] + (
        positions * (last_seconds - joining_seconds)[user]
    ).astype(np.int64)

    # The first session is the longest, because a new user has the movies of a lifetime to rate.
    session_sizes = rng.gamma(0.8, 1.0, first[-1])
    session_sizes[first[:-1]] += 0.25 * session_counts * rng.gamma(2.0, 0.5, USERS)
    session_sizes = np.maximum(session_sizes, 1e-6)
    cumulative_sizes = np.cumsum(session_sizes)
    sizes_of_earlier_users = (cumulative_sizes - session_sizes)[first[:-1]]
    session_shares = (cumulative_sizes - sizes_of_earlier_users[user]) / np.add.reduceat(
        session_sizes, first[:-1]
    )[user]
    session_shares[first[1:] - 1] = 1
    return first, session_starts, session_shares


def _choose_movies(seed: int, users: Users, movies: Movies) -> tuple[Ints, Ints, Floats, Floats]:
    """Each rating's user, movie, affinity and drift, in order of user and movie.

    The affinity is at most about 1. The drift says how much more the movie suits the user's late
    taste than the early one.

    Movies are drawn without replacement, weighted by popularity and affinity: a user gets those
    with the smallest exponential variates of that rate (Efraimidis and Spirakis, "Weighted random
    sampling with a reservoir", 2006).
    """
    rng = np.random.default_rng([seed, 2])
    last_seen = users.session_starts[users.first_session[1:] - 1]
    first_fan = _choose_first_fans(rng, users, movies, last_seen)
    scarcity = (movies.weights.min() / movies.weights).astype(np.float32)
    # exp() rounds differently on every processor. Affinities are whole numbers, so a table can hold
    # all its values. It is twice as long as it seems to need, because rounded vectors may be a
    # little longer than LENGTH.
    affinities = np.arange(-2 * FULL_AFFINITY, 2 * FULL_AFFINITY + 1)
    reluctance = np.exp(-14.0 / FULL_AFFINITY * affinities).astype(np.float32)

    def choose_for_block(first_user: int, keys: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """The movies of a block of users, with the early and the late affinity of each.

        `keys` are the variates of these users, of shape (users, MOVIES). They are overwritten.
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
    """For each movie a user who certainly rates it, so that every movie has ratings.

    It is the one who likes it best among 16 who rate much and were still active when it came out.
    """
    candidates = rng.choice(USERS, (MOVIES, 16), p=users.rating_counts / users.rating_counts.sum())
    candidates[:, 0] = np.argmax(last_seen)
    liking = np.einsum("mt,mct->mc", movies.traits, users.early_tastes[candidates])
    liking[movies.release_times[:, None] > last_seen[candidates]] = -np.inf
    return np.asarray(candidates[np.arange(MOVIES), np.argmax(liking, axis=1)])


def _draw_rating_times(
    rng: np.random.Generator, users: Users, user: Ints, release_times: Ints, position: Floats
) -> Ints:
    """When each rating is given, in epoch seconds, and always after the movie's release.

    `position` says how late in the user's time it is given: the larger, the later.
    """
    session_user = np.repeat(np.arange(USERS), np.diff(users.first_session))
    # All users share one axis of time: each begins there after the last second of the one before.
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
    # New movies are seen soon.
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
