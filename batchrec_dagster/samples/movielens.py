"""`movielens://NAME`: the data sets that GroupLens publishes, downloaded on first use.

Most are for research and non-commercial use and may not be passed on: they are kept in the cache
of this machine, and never become part of the project. https://grouplens.org/datasets/movielens/
"""

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources.download import (
    DownloadError,
    NotThereError,
    download,
    read_text,
)

log = logging.getLogger(__name__)

BASE_URL = "https://files.grouplens.org/datasets"
# Another place with the same folders: a mirror within a company.
BASE_URL_VARIABLE = "BATCHREC_MOVIELENS_URL"

# The ratings of sample://hetrec and of movielens://hetrec2011 have the same format.
HETREC_RATINGS = "user_ratedmovies-timestamps.dat"
HETREC = Layout(
    delimiter="\t",
    user="userID",
    item="movieID",
    rating="rating",
    timestamp="timestamp",
    timestamp_unit="ms",
)
_CSV = Layout(
    delimiter=",",
    user="userId",
    item="movieId",
    rating="rating",
    timestamp="timestamp",
    timestamp_unit="s",
)
_DAT = Layout(delimiter="::", user=1, item=2, rating=3, timestamp=4, timestamp_unit="s")


@dataclass(frozen=True)
class Published:
    """A zip archive: where it is under the base URL, and the ratings in it."""

    path: str
    ratings: str
    layout: Layout
    has_md5: bool = True

    def member(self, name: str) -> str:
        """The archive's name for another file in the folder of the ratings."""
        folder, slash, _ = self.ratings.rpartition("/")
        return folder + slash + name


PUBLISHED = {
    "hetrec2011": Published(
        "hetrec2011/hetrec2011-movielens-2k-v2.zip",
        HETREC_RATINGS,
        HETREC,
        has_md5=False,
    ),
    "ml-latest-small": Published(
        "movielens/ml-latest-small.zip", "ml-latest-small/ratings.csv", _CSV
    ),
    "ml-25m": Published("movielens/ml-25m.zip", "ml-25m/ratings.csv", _CSV),
    "ml-32m": Published("movielens/ml-32m.zip", "ml-32m/ratings.csv", _CSV),
    "ml-1m": Published("movielens/ml-1m.zip", "ml-1m/ratings.dat", _DAT),
    "ml-100k": Published("movielens/ml-100k.zip", "ml-100k/u.data", replace(_DAT, delimiter="\t")),
}


def fetch(name: str, cache: Path) -> Path:
    """The archive of this name in `cache`, downloaded and checked unless it is there already.

    Raises DownloadError.
    """
    published = PUBLISHED[name]
    base = os.environ.get(BASE_URL_VARIABLE, "").rstrip("/") or BASE_URL
    url = f"{base}/{published.path}"
    archive = cache / published.path.rpartition("/")[2]
    if not archive.exists():
        download(url, archive, md5=_published_md5(url) if published.has_md5 else None)
    return archive


def _published_md5(url: str) -> str | None:
    try:
        text = read_text(f"{url}.md5")
    except NotThereError:
        log.warning("%s has no published checksum: the archive is not verified", url)
        return None
    # Two forms are in use: "MD5 (ml-1m.zip) = c4d9…" and "0e33…  ml-100k.zip".
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if not found:
        raise DownloadError(f"no MD5 checksum in {url}.md5: it begins with {text[:40]!r}")
    return found[0].lower()
