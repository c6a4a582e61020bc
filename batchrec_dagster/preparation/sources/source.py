"""The base class of all sources, and the files that a source lists."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore

LONGEST_FILENAME = 120
EMPTY = "it is empty: check what writes it"


class SampleFiles(Protocol):
    """The generated data set: a generator for each file, and the fingerprint of all files.

    The fingerprint changes with every change to a byte of the files.
    """

    FINGERPRINT: str
    FILES: Mapping[str, Callable[[], bytes]]


@dataclass(frozen=True)
class SourceContext:
    """The places that sources find their files in."""

    store: ObjectStore
    """The object store with the buckets."""

    base: Path
    """The folder that relative paths start from."""

    cache: Path
    """The folder of downloaded archives."""

    sample: SampleFiles
    """The generated data set."""


@dataclass(frozen=True)
class ListedFile:
    """A file of a source, as it was when the source was listed."""

    display_name: str
    """The name of the file in messages, without the secrets of a signed URL."""

    filename: str
    """The file's name in the storage.

    It consists of letters, digits, `.`, `_` and `-`, with slashes between folders.
    """

    fingerprint: str
    """A text that changes when the file does."""

    read: Callable[[], Iterator[bytes]] = field(compare=False, repr=False)
    """A function that yields the content as of the listing, piece by piece.

    It raises FileError, UserError or OSError.
    """

    find: Callable[[], Path] | None = field(default=None, compare=False, repr=False)
    """A function that returns the file's path; None if the file is not on this machine.

    It raises FileError.
    """

    object: ObjectInfo | None = field(default=None, compare=False, repr=False)
    """The object in S3; None for a file elsewhere."""

    has_changed: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)
    """A function that returns whether a file on this machine has changed since the listing.

    It returns False for files elsewhere, because their content is fetched at one point in time.
    """

    def chunks(self, *, may_be_empty: bool = False) -> Iterator[bytes]:
        """Yield the content as of the listing, piece by piece.

        Raises UserError if the file cannot be read, or if it is empty and `may_be_empty` is False.
        """
        with name_errors(self.display_name):
            is_empty = True
            for chunk in self.read():
                is_empty = False
                yield chunk
            if is_empty and not may_be_empty:
                raise FileError(EMPTY)

    def provide(self, folder: Path) -> Path:
        """Return the file's path on this machine, or the path of a copy written into the folder.

        Raises FileError, UserError, OSError.
        """
        if self.find is not None:
            return self.find()
        path = folder / make_filename(self.filename)
        with path.open("wb") as file:
            file.writelines(self.read())
        return path

    @contextmanager
    def open_locally(self) -> Iterator[Path]:
        """Yield the path of the file if it is on this machine, else the path of a temporary copy.

        Raises UserError.
        """
        with temporary_folder() as folder:
            with name_errors(self.display_name):
                path = self.provide(folder)
            yield path


@dataclass(frozen=True)
class RowSource(ABC):
    """A place that rows come from.

    A source is one file or several files, or it is a query, a database or an asset. A query, a
    database and an asset give a single file of rows each.
    """

    text: str
    """The source as it is declared."""

    @property
    def display_name(self) -> str:
        """The declared source without the secrets of its URL, for logs, metadata and messages."""
        return hide_query(self.text)

    @abstractmethod
    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return every file in order of path, without reading the files where possible.

        Raises UserError.
        """

    def remove_downloads(self, context: SourceContext) -> None:
        """Remove the downloads that stay in the cache between runs; by default there are none."""
        return


def require_unchanged(files: Iterable[ListedFile], reader: str) -> None:
    """Raise FileError if one of the files has changed since it was listed.

    reader: the reader of the files, as the message names it.
    """
    for file in files:
        if file.has_changed():
            raise FileError(
                f"{file.display_name} changed while {reader} read it: try again when it is complete"
            )


def follow_links(path: Path, folder: Path) -> Path:
    """Return the path with its links followed.

    Every kind of source calls this function before it opens a file that it found in a folder.
    Raises FileError if the path leads out of the folder.
    """
    followed = path.resolve()
    if not followed.is_relative_to(folder.resolve()):
        raise FileError("it is a link out of the folder: put the file itself there")
    return followed


def make_filename(name: str) -> str:
    """Return the last part of a path or URL as a file name that every store and reader accepts.

    Readers such as Spark skip names that begin with a dot or an underscore.
    """
    filename = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1])
    return filename[-LONGEST_FILENAME:].lstrip("._-") or "ratings"


def trim_url(url: str) -> str:
    """Return the URL without its query and without its user and password.

    The query may contain a signature. No signature or password may be in a log.
    """
    scheme, separator, remainder = url.partition("?")[0].partition("://")
    host, slash, path = remainder.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def hide_query(source: str) -> str:
    """Return the source without the secrets of its URL: the query, the user and the password.

    A source that is not a web address is returned as it is.
    """
    if not source.startswith(("http://", "https://")):
        return source
    url, inside, member = source.partition("!/")
    return trim_url(url) + inside + member


@contextmanager
def name_errors(display_name: str) -> Iterator[None]:
    """Turn an OSError, FileError or UserError into a one-line UserError that names the source."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{display_name} cannot be read: {error.strerror or error}") from error
    except FileError as error:
        raise UserError(f"{display_name}: {error}") from error
    except UserError as error:
        # A message that names only another address still needs the source's name.
        if display_name in str(error):
            raise
        raise (Retry if isinstance(error, Retry) else UserError)(
            f"{display_name}: {error}"
        ) from error
