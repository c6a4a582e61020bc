"""The movies and the users of the sample, before any movie is rated."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.samples.titles import NOUNS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def parse_day(day: str) -> int:
    """Return the epoch second at which the day begins in UTC."""
    return int(np.datetime64(day, "s").astype(np.int64))


USERS, MOVIES, RATINGS = 2_113, 10_109, 855_598
FEWEST_RATINGS, MOST_RATINGS = 20, 3_400
FIRST_YEAR, LAST_YEAR = 1915, 2008
FIRST_SECOND, LAST_SECOND = parse_day("1997-09-17"), parse_day("2009-01-05")
# HetRec has only users who wrote tags. MovieLens has had tags since the end of 2005, so no user
# leaves earlier than this.
TAGS_SECOND = parse_day("2006-01-01")

GENRES = tuple(NOUNS)
# For each genre, the share of movies that have it as their first genre.
GENRE_SHARES = np.array([23, 20, 11, 8, 6, 6, 5, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 100
NICHES, TRAITS = 60, 24
# The length of the vectors of traits and tastes. Their values are rounded to whole numbers, so that
# products of vectors are exact. Float rounding differs between processors, and would select other
# movies on another processor.
LENGTH = 64


class Movies(NamedTuple):
    """`n` movies in ascending order of id, and the niches of taste that they belong to.

    An array has one value for each movie, of shape (n,), unless its field says otherwise.
    """

    ids: Ints
    years: Ints
    release_times: Ints
    """The release times in epoch seconds."""
    genres: npt.NDArray[np.bool_]
    """Whether the movie has the genre, of shape (n, genres)."""
    first_genres: Ints
    """The indexes of the movies' first genres in GENRES."""
    traits: npt.NDArray[np.float32]
    """The movies' traits: vectors of whole numbers, of shape (n, TRAITS) and of length LENGTH."""
    weights: Floats
    """The chance that a movie is seen, before the user's taste counts. The chances sum to 1."""
    qualities: Floats
    """The quality in stars above or below the mean."""
    niches: Floats
    """The traits of each niche: unit vectors, of shape (NICHES, TRAITS)."""
    niche_shares: Floats
    """The share of movies in each niche, of shape (NICHES,). The shares sum to 1."""


class Users(NamedTuple):
    """`n` users in ascending order of id, and their sessions in order of user and time.

    An array has one value for each user, of shape (n,), unless its field says otherwise.
    """

    ids: Ints
    rating_counts: Ints
    early_tastes: npt.NDArray[np.float32]
    """The taste at first: vectors of whole numbers, of shape (n, TRAITS) and of length LENGTH."""
    late_tastes: npt.NDArray[np.float32]
    """The taste in the end, as vectors of the same shape and length as `early_tastes`."""
    leniency: Floats
    """The stars that the user gives above or below an average user."""
    whole_stars: npt.NDArray[np.bool_]
    """Whether the user never gives half stars."""
    first_session: Ints
    """The index of each user's first session in the next two fields, of shape (n + 1,).

    The last value is the number of all sessions.
    """
    session_starts: Ints
    """The starts of the sessions in epoch seconds, of shape (sessions,)."""
    session_shares: Floats
    """The share of the user's ratings given by the session's end, of shape (sessions,).

    The share of a user's last session is 1.
    """


def _normalize(vectors: Floats) -> Floats:
    """Return the rows, each scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _round_to_length(vectors: Floats) -> npt.NDArray[np.float32]:
    """Return the rows, each scaled to LENGTH and rounded to whole numbers."""
    return np.rint(LENGTH * _normalize(vectors)).astype(np.float32)


def make_movies(rng: np.random.Generator) -> Movies:
    """Return MOVIES movies: most are near a niche, and a few are famous."""
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
    # Movies come out in May at the latest. So some users are still active after a movie of the last
    # year comes out.
    release_times = first_day + rng.integers(0, 150, MOVIES) * SECONDS_A_DAY

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
    # The weights follow the law of Zipf and Mandelbrot. The rating counts of the MovieLens sets fit
    # an exponent near 1. But the top of these counts is flattened by differing tastes, and by the
    # fact that nobody rates a movie twice. So the exponent of the weights must be higher.
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


def make_users(rng: np.random.Generator, movies: Movies) -> Users:
    """Return USERS users, each with a taste for a few niches of the movies."""
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
    """Return each user's number of ratings.

    The numbers are lognormal between the limits, and RATINGS in total.
    """
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
    """Return the values of `Users.first_session`, `session_starts` and `session_shares`."""
    active_seconds = (rng.beta(1.6, 1.0, USERS) * (LAST_SECOND - TAGS_SECOND)).astype(np.int64)
    last_seconds = TAGS_SECOND + active_seconds
    # The user with the most ratings stays to the end, so that every movie has at least one user who
    # is still there after its release.
    last_seconds[np.argmax(rating_counts)] = LAST_SECOND
    before = rng.exponential(2.5 * 365 * SECONDS_A_DAY, USERS).astype(np.int64)
    joining_seconds = last_seconds - before
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
