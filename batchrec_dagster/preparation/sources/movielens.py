"""The sources `sample://hetrec` and `movielens://NAME`: their files, columns and downloads.

GroupLens publishes the MovieLens data sets. Most are for research and non-commercial use only, and
may not be redistributed. So they stay in this machine's cache, and are not part of the project.
https://grouplens.org/datasets/movielens/
"""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources.archives import Member
from batchrec_dagster.preparation.sources.download import download, read_text
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import File, FileDescription, SourceContext
from batchrec_dagster.preparation.sources.web_request import DownloadError, MissingFileError

log = logging.getLogger(__name__)

BASE_URL = "https://files.grouplens.org/datasets"
# A mirror with the same folders, for example within a company.
BASE_URL_VARIABLE = "BATCHREC_MOVIELENS_URL"

HETREC = Layout("\t", "userID", "movieID", "rating", "timestamp", "ms")
_CSV = Layout(",", "userId", "movieId", "rating", "timestamp", "s")
_DAT = Layout("::", 1, 2, 3, 4, "s")

RATINGS_FILE = "user_ratedmovies-timestamps.dat"
SAMPLE_FILES = (RATINGS_FILE, "movies.dat")


@dataclass(frozen=True)
class GeneratedFile(File):
    """`sample://hetrec` or `sample://hetrec/FILE`: a generated file."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The file that the text names. Raises FileError."""
        name, _, file = text.removeprefix("sample://").partition("/")
        if name != "hetrec":
            raise FileError("the only sample is sample://hetrec")
        if file and file not in SAMPLE_FILES:
            raise FileError(f"sample://hetrec has the files {', '.join(SAMPLE_FILES)}")
        return cls(text)

    @property
    def name(self) -> str:
        return self.text.removeprefix("sample://hetrec").removeprefix("/") or RATINGS_FILE

    @property
    def layout(self) -> Layout | None:
        return HETREC if self.name == RATINGS_FILE else None

    def describe(self, context: SourceContext) -> FileDescription:
        return FileDescription(None, context.sample.FINGERPRINT)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        yield context.sample.FILES[self.name]()


@dataclass(frozen=True)
class PublishedArchive:
    """A zip archive on GroupLens's server, which never changes."""

    address: str
    """The path from the base URL."""
    ratings: str
    """The path of the file of ratings in the archive."""
    layout: Layout
    """The layout of the file of ratings."""
    has_md5: bool = True
    """Whether the server has a file with the archive's MD5 checksum."""

    def describe(self, context: SourceContext) -> FileDescription:
        return FileDescription(None, self.address)

    def path(self, context: SourceContext) -> Path:
        return self.fetch(context.cache)

    def remove_downloads(self, context: SourceContext) -> None:
        self._locate(context.cache).unlink(missing_ok=True)

    def _locate(self, cache: Path) -> Path:
        return cache / self.address.rpartition("/")[2]

    def fetch(self, cache: Path) -> Path:
        """The path of the archive in `cache`. It is downloaded and verified on first use.

        Raises DownloadError.
        """
        base = os.environ.get(BASE_URL_VARIABLE, "").rstrip("/") or BASE_URL
        url = f"{base}/{self.address}"
        archive = self._locate(cache)
        if not archive.exists():
            download(url, archive, md5=_fetch_published_md5(url) if self.has_md5 else None)
        return archive


def parse_movielens(text: str) -> Member:
    """The file that `movielens://NAME/FILE` names, or the ratings for `movielens://NAME`.

    Raises FileError.
    """
    name, _, file = text.removeprefix("movielens://").partition("/")
    if name not in ARCHIVES or file.endswith("/"):
        raise FileError(f"write movielens:// and one of {', '.join(ARCHIVES)}")
    archive = ARCHIVES[name]
    if not file:
        return Member(text, archive, archive.ratings, archive.layout)
    folder, slash, _ = archive.ratings.rpartition("/")
    return Member(text, archive, folder + slash + file)


ARCHIVES = {
    "hetrec2011": PublishedArchive(
        "hetrec2011/hetrec2011-movielens-2k-v2.zip", RATINGS_FILE, HETREC, has_md5=False
    ),
    **{
        name: PublishedArchive(f"movielens/{name}.zip", f"{name}/{ratings}", layout)
        for name, ratings, layout in (
            ("ml-latest-small", "ratings.csv", _CSV),
            ("ml-25m", "ratings.csv", _CSV),
            ("ml-32m", "ratings.csv", _CSV),
            ("ml-1m", "ratings.dat", _DAT),
            ("ml-100k", "u.data", replace(_DAT, delimiter="\t")),
        )
    },
}

_GENRES = {"GENRES": "genres"}
_CSV_ITEMS = ItemsLayout(",", "movieId", "title", categories=_GENRES)
# The genres of ml-100k are missing, because they are 19 columns of flags. Those of hetrec2011 are
# missing too, because they are in a separate file.
KNOWN_ITEMS = {
    "sample://hetrec/movies.dat": ItemsLayout(
        "\t", "movieID", "title", categories=_GENRES, numbers={"YEAR": "year"}
    ),
    "movielens://hetrec2011/movies.dat": ItemsLayout(
        "\t", "id", "title", numbers={"YEAR": "year"}, encoding="latin-1"
    ),
    "movielens://ml-latest-small/movies.csv": _CSV_ITEMS,
    "movielens://ml-25m/movies.csv": _CSV_ITEMS,
    "movielens://ml-32m/movies.csv": _CSV_ITEMS,
    "movielens://ml-1m/movies.dat": ItemsLayout(
        "::", 1, 2, categories={"GENRES": 3}, encoding="latin-1"
    ),
    "movielens://ml-100k/u.item": ItemsLayout("|", 1, 2, encoding="latin-1"),
}


def _fetch_published_md5(url: str) -> str | None:
    """The MD5 checksum that is published next to the archive; None if there is none."""
    try:
        text = read_text(f"{url}.md5")
    except MissingFileError:
        log.warning("%s has no published checksum: the archive is not verified", url)
        return None
    # Two formats are in use: "MD5 (ml-1m.zip) = c4d9…" and "0e33…  ml-100k.zip".
    checksum = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if not checksum:
        raise DownloadError(f"no MD5 checksum in {url}.md5: it begins with {text[:40]!r}")
    return checksum[0].lower()
