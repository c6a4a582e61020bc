"""What every source can do: list its files, each with a fingerprint and what opens it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore

LONGEST_FILENAME = 120
EMPTY = "it is empty: check what writes it"


class SampleFiles(Protocol):
    """The generated data set: each file's generator, and what changes when a byte of them does."""

    FINGERPRINT: str
    FILES: Mapping[str, Callable[[], bytes]]


@dataclass(frozen=True)
class SourceContext:
    """Where the files of sources are."""

    store: ObjectStore
    """The buckets."""

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
    """What messages call it, without the secrets of a signed URL."""

    filename: str
    """Its name in the storage: letters, digits, `.`, `_` and `-`, and slashes between folders."""

    fingerprint: str
    """What changes when the file does."""

    read: Callable[[], Iterator[bytes]] = field(compare=False, repr=False)
    """Reads its content as of the listing, piece by piece. Raises FileError, UserError, OSError."""

    find: Callable[[], Path] | None = field(default=None, compare=False, repr=False)
    """Finds its path, if it is on this machine; else None. Raises FileError."""

    object: ObjectInfo | None = field(default=None, compare=False, repr=False)
    """The object that it is in S3; else None."""

    has_changed: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)
    """Whether it is on this machine, and has changed since the listing. Other files are read as of
    one point in time."""

    def chunks(self, *, may_be_empty: bool = False) -> Iterator[bytes]:
        """Its content as of the listing, piece by piece. Raises UserError, also if it is empty."""
        with name_errors(self.display_name):
            is_empty = True
            for chunk in self.read():
                is_empty = False
                yield chunk
            if is_empty and not may_be_empty:
                raise FileError(EMPTY)

    def provide(self, folder: Path) -> Path:
        """Its path on this machine, or that of a copy in the folder.

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
        """The path of the file, if it is on this machine, else of a temporary copy.

        Raises UserError.
        """
        with temporary_folder() as folder:
            with name_errors(self.display_name):
                path = self.provide(folder)
            yield path


@dataclass(frozen=True)
class RowSource(ABC):
    """Where rows are: files, or a query, a database or an asset, which give one file of rows."""

    text: str
    """The source as it is declared."""

    @property
    def display_name(self) -> str:
        """As declared, without the query of a URL, which may be a secret: for logs, metadata and
        messages."""
        return hide_query(self.text)

    @abstractmethod
    def files(self, context: SourceContext) -> list[ListedFile]:
        """Every file, by path, without reading it where possible. Raises UserError."""

    def remove_downloads(self, context: SourceContext) -> None:
        """Remove what was downloaded and stays in the cache between runs; nothing by default."""
        return


def require_unchanged(files: Iterable[ListedFile], reader: str) -> None:
    """Raise FileError if one of the files has changed since it was listed.

    reader: what read them, in words.
    """
    for file in files:
        if file.has_changed():
            raise FileError(
                f"{file.display_name} changed while {reader} read it: try again when it is complete"
            )


def follow_links(path: Path, folder: Path) -> Path:
    """The path with its links followed: every kind of source looks here before it opens a file that
    it found in a folder. Raises FileError if the path leads out of the folder."""
    followed = path.resolve()
    if not followed.is_relative_to(folder.resolve()):
        raise FileError("it is a link out of the folder: put the file itself there")
    return followed


def make_filename(name: str) -> str:
    """The last part of a path or URL as a file name that every store and reader accepts.

    Readers such as Spark skip names that begin with a dot or an underscore.
    """
    filename = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1])
    return filename[-LONGEST_FILENAME:].lstrip("._-") or "ratings"


def trim_url(url: str) -> str:
    """The address without its query and its user, which may hold secrets.

    They may be a signature and a password, which must not be in a log.
    """
    scheme, separator, remainder = url.partition("?")[0].partition("://")
    host, slash, path = remainder.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


def hide_query(source: str) -> str:
    """The source without the query of its URL, which may be a signature."""
    if not source.startswith(("http://", "https://")):
        return source
    url, inside, member = source.partition("!/")
    return trim_url(url) + inside + member


@contextmanager
def name_errors(display_name: str) -> Iterator[None]:
    """Turn every error of a file into a UserError of one line that names the source."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{display_name} cannot be read: {error.strerror or error}") from error
    except FileError as error:
        raise UserError(f"{display_name}: {error}") from error
    except UserError as error:
        # It names an address, which may be another one.
        if display_name in str(error):
            raise
        raise UserError(f"{display_name}: {error}") from error
