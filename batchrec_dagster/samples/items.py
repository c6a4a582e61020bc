"""The items files of known sources: which column holds what, as GroupLens's READMEs describe it.

ml-100k has genres as 19 columns of flags, hetrec2011 in a file of their own: these go unused.
"""

from batchrec_dagster.preparation.items import ItemsLayout

_CSV = ItemsLayout(delimiter=",", item="movieId", title="title", categories={"GENRES": "genres"})

KNOWN_ITEMS = {
    "sample://hetrec/movies.dat": ItemsLayout(
        delimiter="\t",
        item="movieID",
        title="title",
        categories={"GENRES": "genres"},
        numbers={"YEAR": "year"},
    ),
    "movielens://hetrec2011/movies.dat": ItemsLayout(
        delimiter="\t", item="id", title="title", numbers={"YEAR": "year"}, encoding="latin-1"
    ),
    "movielens://ml-latest-small/movies.csv": _CSV,
    "movielens://ml-25m/movies.csv": _CSV,
    "movielens://ml-32m/movies.csv": _CSV,
    "movielens://ml-1m/movies.dat": ItemsLayout(
        delimiter="::", item=1, title=2, categories={"GENRES": 3}, encoding="latin-1"
    ),
    "movielens://ml-100k/u.item": ItemsLayout(delimiter="|", item=1, title=2, encoding="latin-1"),
}
