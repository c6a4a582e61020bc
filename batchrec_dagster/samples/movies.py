"""The movies of the synthetic HetRec set: what they are, how popular, for what taste."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOVIES = 10_109
HIGHEST_ID = 65_133
FIRST_YEAR, LAST_YEAR = 1915, 2008

# The genres of movie_genres.dat, and how often a movie's first is each of them.
GENRES = {
    "Drama": 23,
    "Comedy": 20,
    "Action": 11,
    "Thriller": 8,
    "Crime": 6,
    "Horror": 6,
    "Romance": 5,
    "Documentary": 4,
    "Adventure": 4,
    "Sci-Fi": 3,
    "Children": 2,
    "Animation": 2,
    "Fantasy": 1,
    "Mystery": 1,
    "Musical": 1,
    "War": 1,
    "Western": 1,
    "Film-Noir": 1,
}

NICHES = 60
TRAITS = 24
# Traits and tastes are rounded to whole numbers of this length, so that their products are exact:
# float rounding differs from one processor to the next, and would choose other movies there.
LENGTH = 64

# Zipf-Mandelbrot. The MovieLens sets fit an exponent near 1, after their users took what suits
# them and nothing twice, which levels the top; before that it has to be steeper.
POPULARITY_EXPONENT = 1.8
POPULARITY_OFFSET = 0.01 * MOVIES

DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Movies:
    """`n` movies in ascending order of id, and the niches of taste they belong to.

    ids: int64 (n,). years: int64 (n,). released: int64 (n,), epoch seconds.
    genres: bool (n, genres), in the order of GENRES; first_genre: int64 (n,).
    traits: float32 (n, TRAITS), whole numbers, of length LENGTH.
    weight: float64 (n,), how likely a movie is to be seen, apart from taste; sums to 1.
    quality: float64 (n,), in stars above or below the mean.
    niches: float64 (NICHES, TRAITS), unit vectors; niche_share: float64 (NICHES,), sums to 1.
    """

    ids: npt.NDArray[np.int64]
    years: npt.NDArray[np.int64]
    released: npt.NDArray[np.int64]
    genres: npt.NDArray[np.bool_]
    first_genre: npt.NDArray[np.int64]
    traits: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float64]
    quality: npt.NDArray[np.float64]
    niches: npt.NDArray[np.float64]
    niche_share: npt.NDArray[np.float64]


def make_movies(seed: int) -> Movies:
    """The movies of this seed; always the same for the same seed."""
    rng = np.random.default_rng([seed, 0])
    ids = np.sort(rng.choice(HIGHEST_ID, MOVIES, replace=False)) + 1

    # A niche is a corner of a genre, with an era of its own: screwball comedies, space operas.
    base = np.array(list(GENRES.values())) / sum(GENRES.values())
    genre_traits = unit(rng.standard_normal((len(GENRES), TRAITS)))
    niche_genre = rng.choice(len(GENRES), NICHES, p=base)
    niche_second = rng.choice(len(GENRES), NICHES, p=base)
    niches = unit(
        genre_traits[niche_genre]
        + 0.5 * genre_traits[niche_second]
        + 0.9 * unit(rng.standard_normal((NICHES, TRAITS)))
    )
    niche_year = LAST_YEAR - np.minimum(rng.exponential(13, NICHES), 60)
    niche_share = rng.dirichlet(np.full(NICHES, 4.0))

    niche = rng.choice(NICHES, MOVIES, p=niche_share)
    spread = rng.laplace(0, 7, MOVIES)
    years = np.clip(np.rint(niche_year[niche] + spread), FIRST_YEAR, LAST_YEAR).astype(np.int64)
    first_day = (years - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)
    # No later than May: everything is out while there is someone left to see it.
    released = first_day + rng.integers(0, 150, MOVIES) * DAY

    genres = np.zeros((MOVIES, len(GENRES)), dtype=np.bool_)
    rows = np.arange(MOVIES)
    genres[rows, niche_genre[niche]] = True
    has_second = rng.random(MOVIES) < 0.7
    genres[rows[has_second], niche_second[niche][has_second]] = True
    has_third = rng.random(MOVIES) < 0.45
    genres[rows[has_third], rng.choice(len(GENRES), has_third.sum(), p=base)] = True

    own = unit(rng.standard_normal((MOVIES, TRAITS)))
    traits = np.rint(LENGTH * unit(niches[niche] + 0.5 * own)).astype(np.float32)

    # Newer movies are a little better known.
    fame = rng.standard_normal(MOVIES) + 0.02 * (years - years.mean())
    rank = np.empty(MOVIES)
    rank[np.argsort(-fame, kind="stable")] = np.arange(MOVIES)
    weight = (rank + POPULARITY_OFFSET) ** -POPULARITY_EXPONENT
    quality = 0.4 * rng.standard_normal(MOVIES) + 0.25 * (1 - 2 * rank / MOVIES)

    return Movies(
        ids=ids.astype(np.int64),
        years=years,
        released=released,
        genres=genres,
        first_genre=niche_genre[niche].astype(np.int64),
        traits=traits,
        weight=weight / weight.sum(),
        quality=quality,
        niches=niches,
        niche_share=niche_share,
    )


def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rows, brought to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
