"""The items files of the known sources: which column holds what.

GroupLens describes them in the README of each set. The genres of ml-100k stand in 19 columns of
flags, and those of hetrec2011 in a file of their own: of these two the titles are known.
"""

from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.samples.hetrec import MOVIES_FILE

_CSV = ItemsLayout(delimiter=",", item="movieId", title="title", categories={"GENRES": "genres"})

KNOWN_ITEMS = {
    f"sample://hetrec/{MOVIES_FILE}": ItemsLayout(
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
