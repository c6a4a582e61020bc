"""The users of the synthetic HetRec set: how much they rate, when, and what they like."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchrec_dagster.samples.movies import DAY, LENGTH, TRAITS, Movies, unit

USERS = 2_113
RATINGS = 855_598
HIGHEST_ID = 71_534
FEWEST, MOST = 20, 3_400

# Dirichlet concentration: the lower, the fewer niches someone cares for.
NICHES_LIKED = 1.2

FIRST_SECOND = int(np.datetime64("1997-09-17", "s").astype(np.int64))
# Who is in HetRec used tags, which MovieLens has had since the end of 2005.
TAGS_SECOND = int(np.datetime64("2006-01-01", "s").astype(np.int64))
LAST_SECOND = int(np.datetime64("2009-01-05", "s").astype(np.int64))


@dataclass(frozen=True)
class Sessions:
    """Every user's sittings, in order of user and time.

    first: int64 (users + 1,), where each user's sessions begin in the arrays below.
    start: int64 (sessions,), epoch seconds.
    until: float64 (sessions,), the share of the user's ratings given by the end of the session,
    ascending within a user; the last one is 1.
    """

    first: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    until: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Users:
    """`n` users in ascending order of id.

    ids, counts: int64 (n,); counts, the ratings of each, sum to RATINGS.
    early, late: float32 (n, TRAITS), whole numbers, of length LENGTH: the taste someone came
    with, and the one they have come to. leniency: float64 (n,), in stars.
    whole_stars: bool (n,), those who never give half stars.
    """

    ids: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    early: npt.NDArray[np.float32]
    late: npt.NDArray[np.float32]
    leniency: npt.NDArray[np.float64]
    whole_stars: npt.NDArray[np.bool_]
    sessions: Sessions


def make_users(seed: int, movies: Movies) -> Users:
    """The users of this seed; always the same for the same seed."""
    rng = np.random.default_rng([seed, 1])
    ids = np.sort(rng.choice(HIGHEST_ID - 74, USERS, replace=False)) + 75
    counts = _counts(rng)

    # Everyone likes a few niches: some from the start, some discovered later.
    liked = rng.dirichlet(NICHES_LIKED * movies.niche_share, USERS)
    found = rng.dirichlet(NICHES_LIKED * movies.niche_share, USERS)
    own = 0.25 * unit(rng.standard_normal((USERS, TRAITS)))
    early = unit(unit((0.8 * liked + 0.2 * found) @ movies.niches) + own)
    late = unit(unit((0.55 * liked + 0.45 * found) @ movies.niches) + own)

    return Users(
        ids=ids.astype(np.int64),
        counts=counts,
        early=np.rint(LENGTH * early).astype(np.float32),
        late=np.rint(LENGTH * late).astype(np.float32),
        leniency=0.35 * rng.standard_normal(USERS),
        whole_stars=rng.random(USERS) < 0.25,
        sessions=_sessions(rng, counts),
    )


def _counts(rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """How many ratings each user gives: lognormal from FEWEST to MOST, RATINGS in all."""
    drawn = np.exp(5.45 + 1.08 * rng.standard_normal(4 * USERS))
    drawn = drawn[drawn < MOST - FEWEST][:USERS]
    excess = drawn - drawn.min()
    scaled = excess * ((RATINGS - FEWEST * USERS) / excess.sum())
    counts = FEWEST + np.minimum(scaled, MOST - FEWEST).astype(np.int64)
    # What rounding and the limit took away goes, evenly, to those who are far from both ends.
    missing = RATINGS - int(counts.sum())
    room = np.flatnonzero((counts > 5 * FEWEST) & (counts < MOST // 2))
    counts[room] += missing // len(room)
    counts[room[: missing % len(room)]] += 1
    return np.asarray(counts)


def _sessions(rng: np.random.Generator, counts: npt.NDArray[np.int64]) -> Sessions:
    users = len(counts)
    last = TAGS_SECOND + (rng.beta(1.6, 1.0, users) * (LAST_SECOND - TAGS_SECOND)).astype(np.int64)
    # So that for every movie there is someone who can have seen it.
    last[np.argmax(counts)] = LAST_SECOND
    stay = (rng.exponential(2.5 * 365 * DAY, users)).astype(np.int64)
    joined = np.maximum(last - stay, FIRST_SECOND)

    number = 2 + rng.poisson(np.minimum(counts / 18 * rng.lognormal(-0.3, 0.8, users), 400))
    first = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
    user = np.repeat(np.arange(users), number)
    place = np.arange(first[-1]) - first[user]

    when = rng.random(first[-1])
    when[place == 0] = 0
    when[place == number[user] - 1] = 1
    # Sorting by user + when sorts the sessions of every user, and keeps the users apart.
    when = np.sort(user + when * (1 - 1e-9)) - user
    start = joined[user] + (when * (last - joined)[user]).astype(np.int64)

    # The first evening is the longest: there are all the movies of a lifetime to rate.
    size = rng.gamma(0.8, 1.0, first[-1])
    size[place == 0] += 0.25 * number * rng.gamma(2.0, 0.5, users)
    size = np.maximum(size, 1e-6)
    total = np.cumsum(size)
    before = (total - size)[first[:-1]]
    until = (total - before[user]) / np.add.reduceat(size, first[:-1])[user]
    until[first[1:] - 1] = 1
    return Sessions(first=first, start=start, until=until)
