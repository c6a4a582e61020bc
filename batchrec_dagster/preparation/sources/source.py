"""What every source can do: list its files, and describe, open and copy each of them; sources whose
rows a run computes."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from batchrec_dagster.preparation.layout import Layout, TableFormat
from batchrec_dagster.preparation.sources.download import DownloadError, safe_url
from batchrec_dagster.preparation.sources.errors import FileError, SourceError
from batchrec_dagster.storage.durable import read_pieces, temporary_folder
from batchrec_dagster.storage.object_store import ObjectStore, StorageError

LONGEST_FILENAME = 120
EMPTY = "it is empty: check what writes it"


class SampleFiles(Protocol):
    """The generated data set: each file's generator, and what changes when a byte of them does."""

    FINGERPRINT: str
    FILES: Mapping[str, Callable[[], bytes]]


def follow_links(path: Path, folder: Path) -> Path:
    """The path with its links followed: every kind of source looks here before it opens a file that
    it found in a folder. Raises FileError if the path leads out of the folder."""
    followed = path.resolve()
    if not followed.is_relative_to(folder.resolve()):
        raise FileError("it is a link out of the folder: put the file itself there")
    return followed


@dataclass(frozen=True)
class SourceContext:
    """The buckets, the folder of relative paths, the folder of downloads, and the sample."""

    store: ObjectStore
    base: Path
    cache: Path
    sample: SampleFiles


@dataclass(frozen=True)
class FileState:
    """A file's size in bytes, where that is known without reading it, and its version."""

    size: int | None
    version: str


@dataclass(frozen=True)
class CopyResult:
    """A copy's size in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True)
class ListedFile:
    """A file of a source. `fingerprint` changes when the file does.

    `filename` has letters, digits, `.`, `_` and `-` only, and slashes for the folders in a folder.
    """

    file: File
    filename: str
    fingerprint: str


class RatingsSource(ABC):
    """A file, a folder or a pattern, as `parse_source` makes it; a query or a database."""

    @property
    @abstractmethod
    def shown(self) -> str:
        """As declared, without the query of a URL, which may be a secret: for logs, metadata and
        messages."""

    @property
    def layout(self) -> Layout | None:
        """The layout of known ratings (sample://, movielens://), None for any other source."""
        return None

    @abstractmethod
    def files(self, context: SourceContext) -> list[ListedFile]:
        """Every file, by path, without reading it where possible. Raises SourceError."""


@dataclass(frozen=True)
class File(RatingsSource):
    """A source of one file: one subclass for each scheme. text: as declared.

    `look`, `as_listed`, `chunks`, `local_path` raise FileError, DownloadError, StorageError or
    OSError; the other methods make one SourceError of these.
    """

    text: str

    @property
    def shown(self) -> str:
        return hide_query(self.text)

    @property
    def name(self) -> str:
        """What the file's name ends."""
        return self.text

    @abstractmethod
    def look(self, context: SourceContext) -> FileState: ...

    @abstractmethod
    def chunks(self, context: SourceContext) -> Iterator[bytes]: ...

    def local_path(self, context: SourceContext) -> Path | None:
        """Its path, where it is a file on this machine."""
        return None

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Itself. Raises SourceError."""
        with naming(self.shown):
            file = self.as_listed(context)
        return [ListedFile(file, safe_filename(self.name), file.fingerprint(context))]

    def as_listed(self, context: SourceContext) -> File:
        """Itself, knowing what it was like: it is copied as it is now, or not at all. A web file
        and an archive are read whole into the cache, at one moment."""
        return self

    def changed(self, context: SourceContext) -> bool:
        """Whether it is on this machine, and no longer as `as_listed` saw it."""
        return False

    def fingerprint(self, context: SourceContext, *, may_be_empty: bool = False) -> str:
        """What changes when the file does. Raises SourceError."""
        with naming(self.shown):
            look = self.look(context)
            if look.size == 0 and not may_be_empty:
                raise FileError(EMPTY)
            return look.version

    @contextmanager
    def open_locally(self, context: SourceContext) -> Iterator[Path]:
        """Itself where it is on this machine, else a temporary copy. Raises SourceError."""
        with naming(self.shown):
            path = self.local_path(context)
        if path is not None:
            yield path
            return
        with temporary_folder() as folder:
            path = folder / safe_filename(self.name)
            with naming(self.shown), path.open("wb") as file:
                file.writelines(self.chunks(context))
            yield path

    def copy(
        self, context: SourceContext, destination: str, *, may_be_empty: bool = False
    ) -> CopyResult:
        """Copy to the s3:// URI `destination`: all of it, or nothing changes there.

        Raises SourceError when the file cannot be read, or is empty, StorageError when the copy
        cannot be written.
        """
        digest, size = hashlib.sha256(), 0

        # An error in here ends the put before anything is visible.
        def counted() -> Generator[bytes, None, None]:
            nonlocal size
            with naming(self.shown):
                for chunk in self.chunks(context):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
                if not size and not may_be_empty:
                    raise FileError(EMPTY)

        with closing(counted()) as chunks:
            context.store.put(destination, _in_a_thread(chunks))
        return CopyResult(size, digest.hexdigest())


def _in_a_thread(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, produced in a thread of its own: obstore cannot read during a put."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        while (chunk := thread.submit(next, chunks, None).result()) is not None:
            yield chunk


def safe_filename(name: str) -> str:
    """The last part of a path or URL as a file name that every store and reader accepts.

    Readers such as Spark skip names that begin with a dot or an underscore.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1])
    return plain[-LONGEST_FILENAME:].lstrip("._-") or "ratings"


def hide_query(source: str) -> str:
    """The source without the query of its URL, which may be a signature."""
    if not source.startswith(("http://", "https://")):
        return source
    url, inside, member = source.partition("!/")
    return safe_url(url) + inside + member


@contextmanager
def naming(shown: str) -> Iterator[None]:
    """Turn every error of a file into a SourceError of one line that names the source."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{shown} cannot be read: {error.strerror or error}") from error
    except FileError as error:
        raise SourceError(f"{shown}: {error}") from error
    except (DownloadError, StorageError) as error:
        # These name an address, which may be another one.
        message = str(error)
        raise SourceError(message if shown in message else f"{shown}: {message}") from error


CHUNK = 8 * 1024 * 1024
ASSET = "asset://"
ONLY_A_RUN = "an asset is read by a run, as the source of ratings or items: name a file here"


@dataclass(frozen=True)
class ResultFile(File):
    """Rows that `write` puts into a Parquet file, or raises FileError; `version` changes when they
    may have changed."""

    version: str
    filename: str
    write: Callable[[Path, SourceContext], None] = field(repr=False, compare=False)

    def files(self, context: SourceContext) -> list[ListedFile]:
        return [ListedFile(self, self.filename, self.version)]

    def look(self, context: SourceContext) -> FileState:
        return FileState(None, self.version)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        with temporary_folder() as folder:
            path = folder / "result.parquet"
            self.write(path, context)
            yield from read_pieces(path, CHUNK)


@dataclass(frozen=True)
class AssetRows(File):
    """The rows of an asset, before a run has found out where they are."""

    table_format: TableFormat | None = None
    """The format of the table whose folder the asset's metadata name, if it is one."""

    @classmethod
    def parse(cls, text: str, table_format: TableFormat | None = None) -> Self:
        """Raises FileError."""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text.removeprefix(ASSET)):
            raise FileError("write an asset's key, its parts separated by /: asset://shop/orders")
        return cls(text, table_format)

    @property
    def key(self) -> list[str]:
        """The parts of the asset's key."""
        return self.text.removeprefix(ASSET).split("/")

    def look(self, context: SourceContext) -> FileState:
        raise FileError(ONLY_A_RUN)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        raise FileError(ONLY_A_RUN)
