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


def _epoch_seconds(day: str) -> int:
    return int(np.datetime64(day, "s").astype(np.int64))


SEED = 2011
# Increase the version with every change to a byte of the files.
FINGERPRINT = f"version 2, seed {SEED}"

USERS, MOVIES, RATINGS = 2_113, 10_109, 855_598
FEWEST_RATINGS, MOST_RATINGS = 20, 3_400
FIRST_YEAR, LAST_YEAR = 1915, 2008
DAY = 24 * 60 * 60
FIRST_SECOND, LAST_SECOND = _epoch_seconds("1997-09-17"), _epoch_seconds("2009-01-05")
# HetRec's users wrote tags, which MovieLens has had since the end of 2005.
TAGS_SECOND = _epoch_seconds("2006-01-01")
# MovieLens has had half stars since then; https://grouplens.org/datasets/movielens/ (ml-10m).
HALF_STARS_SECOND = _epoch_seconds("2003-02-18")

GENRES = tuple(NOUNS)
# How often a movie's first genre is each of them.
GENRE_SHARES = np.array([23, 20, 11, 8, 6, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 100
NICHES, TRAITS = 60, 24
# Traits and tastes are rounded to whole numbers of this length, so that their products are exact:
# float rounding differs between processors and would select other movies there.
LENGTH = 64
# What a movie's traits and a user's two tastes multiply to when all three are equal.
FULL_AFFINITY = 2 * LENGTH * LENGTH
BLOCK = 128


class Movies(NamedTuple):
    """`n` movies in ascending order of id, and the niches of taste they belong to."""

    ids: Ints
    years: Ints
    released: Ints  # epoch seconds
    genres: npt.NDArray[np.bool_]  # (n, genres)
    first_genre: Ints
    traits: npt.NDArray[np.float32]  # (n, TRAITS), whole numbers, of length LENGTH
    weight: Floats  # how likely to be seen, apart from taste; sums to 1
    quality: Floats  # stars above or below the mean
    niches: Floats  # (NICHES, TRAITS), unit vectors
    niche_share: Floats  # sums to 1


class Users(NamedTuple):
    """`n` users in ascending order of id, and their sessions in order of user and time."""

    ids: Ints
    counts: Ints  # ratings of each
    early: npt.NDArray[np.float32]  # the taste at first: (n, TRAITS), whole numbers, length LENGTH
    late: npt.NDArray[np.float32]  # and at the end
    leniency: Floats  # stars
    whole_stars: npt.NDArray[np.bool_]  # never gives half stars
    first_session: Ints  # (n + 1,), where each user's sessions begin in the next two
    opens: Ints  # (sessions,), epoch seconds
    until: Floats  # (sessions,), share of the user's ratings given by the end; the last is 1


def ratings(seed: int = SEED) -> pl.DataFrame:
    """userID, movieID (i64), rating (str: 0.5 to 5), timestamp (i64, ms), by user and movie."""
    movies = _make_movies(seed)
    users = _make_users(seed, movies)
    user, movie, affinity, drift = _choose_movies(seed, users, movies)
    rng = np.random.default_rng([seed, 3])
    # Movies that suit the later taste are rated late, famous ones early.
    fame = np.log(movies.weight * MOVIES)[movie]
    position = 1.5 * rng.standard_normal(RATINGS) + 2.0 * drift - 0.12 * fame
    second = _rating_times(rng, users, user, movies.released[movie], position)

    stars = (
        3.42
        + users.leniency[user]
        + movies.quality[movie]
        + 1.2 * (affinity - affinity.mean())
        + 0.85 * rng.standard_normal(RATINGS)
    )
    whole = users.whole_stars[user] | (second < HALF_STARS_SECOND)
    halves = np.where(whole, 2 * np.clip(np.rint(stars), 1, 5), np.clip(np.rint(2 * stars), 1, 10))
    return pl.DataFrame(
        {
            "userID": users.ids[user],
            "movieID": movies.ids[movie],
            "rating": pl.Series([f"{half / 2:g}" for half in range(11)]).gather(halves.astype(int)),
            "timestamp": second * 1000,
        }
    )


def movies(seed: int = SEED) -> pl.DataFrame:
    """movieID (i64), title (str), year (i64), genres (str, joined by |), by movie."""
    made = _make_movies(seed)
    genres = np.array(GENRES)
    return pl.DataFrame(
        {
            "movieID": made.ids,
            "title": make_titles(seed, [GENRES[genre] for genre in made.first_genre]),
            "year": made.years,
            "genres": ["|".join(sorted(genres[row])) for row in made.genres],
        }
    )


def _tab_separated(table: pl.DataFrame) -> bytes:
    return table.write_csv(separator="\t", quote_style="never").encode()


# The files of sample://hetrec: tab-separated with a header, UTF-8. The ratings are 20 MB.
FILES: Mapping[str, Callable[[], bytes]] = {
    "user_ratedmovies-timestamps.dat": lambda: _tab_separated(ratings()),
    "movies.dat": lambda: _tab_separated(movies()),
}


def _unit(vectors: Floats) -> Floats:
    """The rows, scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _rounded(vectors: Floats) -> npt.NDArray[np.float32]:
    """The rows, scaled to LENGTH and rounded to whole numbers."""
    return np.rint(LENGTH * _unit(vectors)).astype(np.float32)


def _make_movies(seed: int) -> Movies:
    rng = np.random.default_rng([seed, 0])
    ids = np.sort(rng.choice(65_133, MOVIES, replace=False)) + 1

    # A niche is a corner of a genre, with an era of its own: screwball comedies, space operas.
    genre_traits = _unit(rng.standard_normal((len(GENRES), TRAITS)))
    niche_genre = rng.choice(len(GENRES), NICHES, p=GENRE_SHARES)
    niche_second = rng.choice(len(GENRES), NICHES, p=GENRE_SHARES)
    niche_own = 0.9 * _unit(rng.standard_normal((NICHES, TRAITS)))
    niches = _unit(genre_traits[niche_genre] + 0.5 * genre_traits[niche_second] + niche_own)
    niche_year = LAST_YEAR - np.minimum(rng.exponential(13, NICHES), 60)
    niche_share = rng.dirichlet(np.full(NICHES, 4.0))

    niche = rng.choice(NICHES, MOVIES, p=niche_share)
    years = np.rint(niche_year[niche] + rng.laplace(0, 7, MOVIES))
    years = np.clip(years, FIRST_YEAR, LAST_YEAR).astype(np.int64)
    first_day = (years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
    # No later than May, so that every movie still has users left to see it.
    released = first_day + rng.integers(0, 150, MOVIES) * DAY

    genres = np.zeros((MOVIES, len(GENRES)), dtype=np.bool_)
    genres[np.arange(MOVIES), niche_genre[niche]] = True
    second = np.flatnonzero(rng.random(MOVIES) < 0.7)
    genres[second, niche_second[niche][second]] = True
    third = np.flatnonzero(rng.random(MOVIES) < 0.45)
    genres[third, rng.choice(len(GENRES), len(third), p=GENRE_SHARES)] = True

    own = _unit(rng.standard_normal((MOVIES, TRAITS)))
    traits = _rounded(niches[niche] + 0.5 * own)

    # Newer movies are a little better known.
    fame = rng.standard_normal(MOVIES) + 0.02 * (years - years.mean())
    rank = np.empty(MOVIES)
    rank[np.argsort(-fame, kind="stable")] = np.arange(MOVIES)
    # Zipf-Mandelbrot. The MovieLens sets fit an exponent near 1, after taste, and the rule that
    # nobody rates a movie twice, flattened the top; before that the exponent must be higher.
    weight = (rank + 0.01 * MOVIES) ** -1.8
    quality = 0.4 * rng.standard_normal(MOVIES) + 0.25 * (1 - 2 * rank / MOVIES)
    weight /= weight.sum()
    first_genre = niche_genre[niche]
    return Movies(
        ids, years, released, genres, first_genre, traits, weight, quality, niches, niche_share
    )


def _make_users(seed: int, movies: Movies) -> Users:
    rng = np.random.default_rng([seed, 1])
    ids = np.sort(rng.choice(71_460, USERS, replace=False)) + 75
    counts = _rating_counts(rng)

    # Everyone likes a few niches: some from the start, some discovered later.
    first, later = (rng.dirichlet(1.2 * movies.niche_share, USERS) for _ in range(2))
    own = 0.25 * _unit(rng.standard_normal((USERS, TRAITS)))
    early = _rounded(_unit((0.8 * first + 0.2 * later) @ movies.niches) + own)
    late = _rounded(_unit((0.55 * first + 0.45 * later) @ movies.niches) + own)
    leniency = 0.35 * rng.standard_normal(USERS)
    whole_stars = rng.random(USERS) < 0.25
    sessions = _make_sessions(rng, counts)
    return Users(ids, counts, early, late, leniency, whole_stars, *sessions)


def _rating_counts(rng: np.random.Generator) -> Ints:
    """How many ratings each user gives: lognormal between the limits, RATINGS in total."""
    drawn = np.exp(5.45 + 1.08 * rng.standard_normal(4 * USERS))
    drawn = drawn[drawn < MOST_RATINGS - FEWEST_RATINGS][:USERS]
    excess = drawn - drawn.min()
    scaled = excess * ((RATINGS - FEWEST_RATINGS * USERS) / excess.sum())
    counts = FEWEST_RATINGS + np.minimum(scaled, MOST_RATINGS - FEWEST_RATINGS).astype(np.int64)
    # What rounding and the limit took away is spread over users far from both limits.
    missing = RATINGS - int(counts.sum())
    room = np.flatnonzero((counts > 5 * FEWEST_RATINGS) & (counts < MOST_RATINGS // 2))
    counts[room] += missing // len(room)
    counts[room[: missing % len(room)]] += 1
    return np.asarray(counts)


def _make_sessions(rng: np.random.Generator, counts: Ints) -> tuple[Ints, Ints, Floats]:
    """first_session, opens and until of Users."""
    span = (rng.beta(1.6, 1.0, USERS) * (LAST_SECOND - TAGS_SECOND)).astype(np.int64)
    last = TAGS_SECOND + span
    # So that every movie has a user who can have seen it.
    last[np.argmax(counts)] = LAST_SECOND
    joined = last - (rng.exponential(2.5 * 365 * DAY, USERS)).astype(np.int64)
    joined = np.maximum(joined, FIRST_SECOND)

    number = 2 + rng.poisson(np.minimum(counts / 18 * rng.lognormal(-0.3, 0.8, USERS), 400))
    first = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    user = np.repeat(np.arange(USERS), number)
    when = rng.random(first[-1])
    when[first[:-1]], when[first[1:] - 1] = 0, 1
    # Sorting user + when sorts the sessions of every user, and keeps the users apart.
    when = np.sort(user + when * (1 - 1e-9)) - user
    opens = joined[user] + (when * (last - joined)[user]).astype(np.int64)

    # The first session is the longest: there are all the movies of a lifetime to rate.
    size = rng.gamma(0.8, 1.0, first[-1])
    size[first[:-1]] += 0.25 * number * rng.gamma(2.0, 0.5, USERS)
    size = np.maximum(size, 1e-6)
    total = np.cumsum(size)
    before = (total - size)[first[:-1]]
    until = (total - before[user]) / np.add.reduceat(size, first[:-1])[user]
    until[first[1:] - 1] = 1
    return first, opens, until


def _choose_movies(seed: int, users: Users, movies: Movies) -> tuple[Ints, Ints, Floats, Floats]:
    """Each rating's user, movie, affinity (at most about 1) and drift, by user and movie.

    drift: how much more the movie suits the user's late taste than the early one. Movies are drawn
    without replacement, weighted by popularity and affinity: those with the smallest exponential
    variates of that rate (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
    2006).
    """
    rng = np.random.default_rng([seed, 2])
    last_seen = users.opens[users.first_session[1:] - 1]
    first_fan = _first_fans(rng, users, movies, last_seen)
    scarcity = (movies.weight.min() / movies.weight).astype(np.float32)
    # exp() rounds differently on every processor. Affinities are whole numbers, so a table has all
    # its values; rounded vectors may be a little longer than LENGTH, hence twice the size.
    steps = np.arange(-2 * FULL_AFFINITY, 2 * FULL_AFFINITY + 1)
    reluctance = np.exp(-14.0 / FULL_AFFINITY * steps).astype(np.float32)

    def chosen(low: int, key: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
        """Movies, early and late affinity of a block of users, whose variates are `key`."""
        block = slice(low, low + BLOCK)
        early = users.early[block] @ movies.traits.T
        late = users.late[block] @ movies.traits.T
        key *= reluctance[(early + late).astype(np.int32) + 2 * FULL_AFFINITY]
        key *= scarcity
        key[movies.released > last_seen[block, None]] = np.inf
        certain = np.flatnonzero(first_fan // BLOCK == low // BLOCK)
        key[first_fan[certain] - low, certain] = 0
        rows = []
        for row, count in enumerate(users.counts[block]):
            most = np.partition(key[row], count - 1)[count - 1]
            movie = np.flatnonzero(key[row] <= most)[:count]
            rows.append((movie, early[row, movie], late[row, movie]))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def drawn(low: int) -> npt.NDArray[np.float32]:
        shape = min(BLOCK, USERS - low), MOVIES
        return rng.standard_exponential(shape, dtype=np.float32)

    lows = range(0, USERS, BLOCK)
    # numpy lets other threads work: the next variates are drawn while movies are chosen.
    with ThreadPoolExecutor() as pool:
        blocks = list(pool.map(chosen, lows, map(drawn, lows)))
    movie, early, late = (np.concatenate(column) for column in zip(*blocks, strict=True))
    affinity = (early + late).astype(np.float64) / FULL_AFFINITY
    drift = (late - early).astype(np.float64) / (FULL_AFFINITY / 2)
    return np.repeat(np.arange(USERS), users.counts), movie, affinity, drift


def _first_fans(rng: np.random.Generator, users: Users, movies: Movies, last_seen: Ints) -> Ints:
    """One user for each movie who certainly rates it, so that every movie has ratings.

    The one who likes it best among 16 who rate much and were still active when it came out.
    """
    candidates = rng.choice(USERS, (MOVIES, 16), p=users.counts / users.counts.sum())
    candidates[:, 0] = np.argmax(last_seen)
    liking = np.einsum("mt,mct->mc", movies.traits, users.early[candidates])
    liking[movies.released[:, None] > last_seen[candidates]] = -np.inf
    return np.asarray(candidates[np.arange(MOVIES), np.argmax(liking, axis=1)])


def _rating_times(
    rng: np.random.Generator, users: Users, user: Ints, released: Ints, position: Floats
) -> Ints:
    """When each rating is given, in epoch seconds: by `position`, but after the movie's release."""
    session_user = np.repeat(np.arange(USERS), np.diff(users.first_session))
    # One time axis for all: each user's begins where every epoch second of the last one ends.
    axis = 4 * 10**9
    out = np.searchsorted(session_user * axis + users.opens, user * axis + released)
    earliest = np.where(out > users.first_session[user], users.until[out - 1], 0)

    share = 1 / (1 + np.exp(-position))
    # New movies are seen soon.
    share = np.where(earliest > 0, earliest + (1 - earliest) * share**2, share)
    session = np.searchsorted(session_user + users.until, user + share * (1 - 1e-9))

    order = np.lexsort((share, session))
    session = session[order]
    elapsed = np.cumsum(np.rint(rng.exponential(9, RATINGS)).astype(np.int64))
    starts = np.flatnonzero(np.diff(session, prepend=-1))
    at_start = np.repeat(elapsed[starts], np.diff(np.append(starts, RATINGS)))
    second = np.empty(RATINGS, dtype=np.int64)
    second[order] = users.opens[session] + elapsed - at_start
    return second
