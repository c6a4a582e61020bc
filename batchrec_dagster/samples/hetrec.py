"""`sample://hetrec`: ratings shaped like HetRec 2011's, free to use, with a taste to learn.

The real set (HetRec 2011, MovieLens-2k) may not be passed on; this one has its files' format,
its numbers of users, movies and ratings, and the structure that recommenders live on: groups
of taste, popularity, sessions, and tastes that change with time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.samples.movies import GENRES, LENGTH, MOVIES, Movies, make_movies
from batchrec_dagster.samples.titles import make_titles
from batchrec_dagster.samples.users import RATINGS, Sessions, Users, make_users

# Changes with everything that changes a byte of the files.
VERSION = 1
SEED = 2011

RATINGS_FILE = "user_ratedmovies-timestamps.dat"
MOVIES_FILE = "movies.dat"

LAYOUT = Layout(
    delimiter="\t",
    user="userID",
    item="movieID",
    rating="rating",
    timestamp="timestamp",
    timestamp_unit="ms",
)

# How much taste matters for what someone watches (in powers of e) and for the stars they give.
WATCHES_BY_TASTE = 14.0
STARS_BY_TASTE = 1.2
MEAN_STARS = 3.42

# When: what suits the taste that someone came to is rated late, what everyone knows early.
LATE_BY_DRIFT = 2.0
EARLY_BY_FAME = 0.12

# MovieLens has had half stars since then; https://grouplens.org/datasets/movielens/ (ml-10m).
HALF_STARS_SECOND = int(np.datetime64("2003-02-18", "s").astype(np.int64))

BLOCK = 128


class Watched(NamedTuple):
    """A user's movies. affinity: 1 where taste and movie are one, 0 where they are strangers.

    drift: how much more it suits the taste the user came to than the one before.
    """

    user: npt.NDArray[np.int64]
    movie: npt.NDArray[np.int64]
    affinity: npt.NDArray[np.float64]
    drift: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """Row by row: users and movies by their position, half stars 1 to 10, epoch seconds."""

    user: npt.NDArray[np.int64]
    movie: npt.NDArray[np.int64]
    halves: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]


def ratings(seed: int = SEED) -> pl.DataFrame:
    """userID, movieID (i64), rating (str: 0.5 to 5), timestamp (i64, ms), by user and movie."""
    movies = make_movies(seed)
    users = make_users(seed, movies)
    rated = _rate(seed, users, movies)
    names = np.array([f"{halves / 2:g}" for halves in range(11)])
    return pl.DataFrame(
        {
            "userID": users.ids[rated.user],
            "movieID": movies.ids[rated.movie],
            "rating": pl.Series(names).gather(rated.halves),
            "timestamp": rated.second * 1000,
        }
    )


def movies(seed: int = SEED) -> pl.DataFrame:
    """movieID (i64), title (str), year (i64), genres (str, joined by |), by movie."""
    made = make_movies(seed)
    genres = np.array(list(GENRES))
    return pl.DataFrame(
        {
            "movieID": made.ids,
            "title": make_titles(seed, made),
            "year": made.years,
            "genres": ["|".join(sorted(genres[row])) for row in made.genres],
        }
    )


def ratings_file(seed: int = SEED) -> bytes:
    """RATINGS_FILE: tab-separated with a header, 20 MB."""
    return _tab_separated(ratings(seed))


def movies_file(seed: int = SEED) -> bytes:
    """MOVIES_FILE: tab-separated with a header, UTF-8."""
    return _tab_separated(movies(seed))


# What `sample://hetrec/NAME` may name.
FILES = {RATINGS_FILE: ratings_file, MOVIES_FILE: movies_file}


def _tab_separated(table: pl.DataFrame) -> bytes:
    file = BytesIO()
    table.write_csv(file, separator="\t", quote_style="never")
    return file.getvalue()


def _rate(seed: int, users: Users, movies: Movies) -> Ratings:
    user, movie, affinity, drift = map(
        np.concatenate, zip(*_watch(seed, users, movies), strict=True)
    )
    rng = np.random.default_rng([seed, 3])
    fame = np.log(movies.weight * MOVIES)[movie]
    place = 1.5 * rng.standard_normal(RATINGS) + LATE_BY_DRIFT * drift - EARLY_BY_FAME * fame
    second = _times(rng, users.sessions, user, movies.released[movie], place)

    stars = (
        MEAN_STARS
        + users.leniency[user]
        + movies.quality[movie]
        + STARS_BY_TASTE * (affinity - affinity.mean())
        + 0.85 * rng.standard_normal(RATINGS)
    )
    whole = users.whole_stars[user] | (second < HALF_STARS_SECOND)
    halves = np.where(whole, 2 * np.clip(np.rint(stars), 1, 5), np.clip(np.rint(2 * stars), 1, 10))
    return Ratings(user, movie, halves.astype(np.int64), second)


def _watch(seed: int, users: Users, movies: Movies) -> Iterator[Watched]:
    """What each user rates, user by user.

    A movie is drawn with a probability that grows with its popularity and with the user's
    affinity to it, and never twice: those whose exponential clocks, running at that rate, ring
    first (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
    """
    rng = np.random.default_rng([seed, 2])
    last_seen = users.sessions.start[users.sessions.first[1:] - 1]
    first_fan = _first_fans(rng, users, movies, last_seen)
    scarcity = (movies.weight.min() / movies.weight).astype(np.float32)
    # Affinities are whole numbers, so a table serves for exp(), which rounds in its own way on
    # every processor. Rounded vectors may be a little longer than LENGTH: twice is room enough.
    one = 2 * LENGTH * LENGTH
    reluctance = np.exp(-WATCHES_BY_TASTE / one * np.arange(-2 * one, 2 * one + 1))
    reluctance = reluctance.astype(np.float32)

    for low in range(0, len(users.ids), BLOCK):
        block = slice(low, low + BLOCK)
        early = users.early[block] @ movies.traits.T
        late = users.late[block] @ movies.traits.T
        affinity = early + late
        ring = rng.standard_exponential(affinity.shape, dtype=np.float32)
        ring *= reluctance[affinity.astype(np.int32) + 2 * one]
        ring *= scarcity
        ring[movies.released > last_seen[block, None]] = np.inf
        sure = np.flatnonzero(first_fan // BLOCK == low // BLOCK)
        ring[first_fan[sure] - low, sure] = 0
        for row, count in enumerate(users.counts[block]):
            movie = np.sort(np.argpartition(ring[row], count - 1)[:count])
            yield Watched(
                user=np.full(count, low + row),
                movie=movie,
                affinity=affinity[row, movie].astype(np.float64) / one,
                drift=(late - early)[row, movie].astype(np.float64) / (one / 2),
            )


def _first_fans(
    rng: np.random.Generator,
    users: Users,
    movies: Movies,
    last_seen: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """One user for each movie who rates it for certain, so that none is without ratings.

    The one who likes it best among some who rate much and were still there when it came out.
    """
    candidates = rng.choice(len(users.ids), (MOVIES, 16), p=users.counts / users.counts.sum())
    candidates[:, 0] = np.argmax(last_seen)
    liking = np.einsum("mt,mct->mc", movies.traits, users.early[candidates])
    liking[movies.released[:, None] > last_seen[candidates]] = -np.inf
    return np.asarray(candidates[np.arange(MOVIES), np.argmax(liking, axis=1)])


def _times(
    rng: np.random.Generator,
    sessions: Sessions,
    user: npt.NDArray[np.int64],
    released: npt.NDArray[np.int64],
    place: npt.NDArray[np.float64],
) -> npt.NDArray[np.int64]:
    """When each rating is given, in epoch seconds: by `place`, but not before the movie is out."""
    session_user = np.repeat(np.arange(len(sessions.first) - 1), np.diff(sessions.first))
    # One line of time for all: each user's begins where every epoch second of the last one ends.
    line = 4 * 10**9
    out = np.searchsorted(session_user * line + sessions.start, user * line + released)
    earliest = np.where(out > sessions.first[user], sessions.until[out - 1], 0)

    share = 1 / (1 + np.exp(-place))
    # New movies are seen soon.
    share = np.where(earliest > 0, earliest + (1 - earliest) * share**2, share)
    session = np.searchsorted(session_user + sessions.until, user + share * (1 - 1e-9))

    order = np.lexsort((share, session))
    session = session[order]
    elapsed = np.cumsum(np.rint(rng.exponential(9, len(user))).astype(np.int64))
    opens = np.flatnonzero(np.diff(session, prepend=-1))
    opened = np.repeat(elapsed[opens], np.diff(np.append(opens, len(user))))
    second = np.empty(len(user), dtype=np.int64)
    second[order] = sessions.start[session] + elapsed - opened
    return second
