"""What every source can do: list its files, and describe, open and copy each of them."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.web_request import DownloadError, safe_url
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.objects import ObjectStore

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
    """Where the files of sources are."""

    store: ObjectStore
    """The buckets."""

    base: Path
    """The folder that relative paths start from."""

    cache: Path
    """The folder of downloads."""

    sample: SampleFiles
    """The generated data set."""


@dataclass(frozen=True)
class FileDescription:
    """What is known of a file without reading it."""

    size: int | None
    """The size in bytes; None if only reading the file would tell."""

    version: str
    """What changes when the file does."""


@dataclass(frozen=True)
class CopyResult:
    """A copy of a file."""

    size: int
    """The size in bytes."""

    sha256: str
    """The checksum in hexadecimal."""

    etag: str = field(default="", compare=False)
    """The ETag of the copy."""


@dataclass(frozen=True)
class ListedFile:
    """A file of a source, as it was when the source was listed."""

    file: File

    filename: str
    """Its name in the storage: letters, digits, `.`, `_` and `-`, and slashes between folders."""

    fingerprint: str
    """What changes when the file does."""


class RatingsSource(ABC):
    """A file, a folder or a pattern, as `parse_source` makes it; a query or a database."""

    @property
    @abstractmethod
    def display_name(self) -> str:
        """As declared, without the query of a URL, which may be a secret: for logs, metadata and
        messages."""

    @abstractmethod
    def files(self, context: SourceContext) -> list[ListedFile]:
        """Every file, by path, without reading it where possible. Raises UserError."""

    def remove_downloads(self, context: SourceContext) -> None:
        """Remove what was downloaded and stays in the cache between runs; nothing by default."""
        return


@dataclass(frozen=True)
class File(RatingsSource):
    """A source of one file, of which each scheme has a subclass.

    `describe`, `with_snapshot`, `chunks` and `local_path` raise FileError, DownloadError,
    UserError or OSError. The other methods raise a UserError instead.
    """

    text: str
    """The source as it is declared."""

    @property
    def display_name(self) -> str:
        return hide_query(self.text)

    @property
    def name(self) -> str:
        """The path or URL that ends with the file's name."""
        return self.text

    @abstractmethod
    def describe(self, context: SourceContext) -> FileDescription:
        """What is known of the file without reading it."""

    @abstractmethod
    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        """The content of the file, piece by piece."""

    def local_path(self, context: SourceContext) -> Path | None:
        """The path of a file on this machine; None for any other."""
        return None

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Itself. Raises UserError."""
        with name_errors(self.display_name):
            file = self.with_snapshot(context)
        return [ListedFile(file, safe_filename(self.name), file.fingerprint(context))]

    def with_snapshot(self, context: SourceContext) -> File:
        """The same file with what it is like now, so that it is copied as it is now, or not at all.

        A web file and an archive are read whole into the cache as of one point in time.
        """
        return self

    def has_changed(self, context: SourceContext) -> bool:
        """Whether it is on this machine, and differs from its snapshot."""
        return False

    def fingerprint(self, context: SourceContext, *, may_be_empty: bool = False) -> str:
        """What changes when the file does. Raises UserError."""
        with name_errors(self.display_name):
            description = self.describe(context)
            if description.size == 0 and not may_be_empty:
                raise FileError(EMPTY)
            return description.version

    @contextmanager
    def open_locally(self, context: SourceContext) -> Iterator[Path]:
        """The path of the file, if it is on this machine, else of a temporary copy.

        Raises UserError.
        """
        with name_errors(self.display_name):
            path = self.local_path(context)
        if path is not None:
            yield path
            return
        with temporary_folder() as folder:
            path = folder / safe_filename(self.name)
            with name_errors(self.display_name), path.open("wb") as file:
                file.writelines(self.chunks(context))
            yield path

    def copy(
        self, context: SourceContext, destination: str, *, may_be_empty: bool = False
    ) -> CopyResult:
        """Copy the file to the s3:// URI `destination`, or change nothing there.

        Raises UserError if the file cannot be read, or is empty, and UserError if the copy
        cannot be written.
        """
        digest, size = hashlib.sha256(), 0

        # An error in here ends the put before anything is visible.
        def read_and_count() -> Generator[bytes, None, None]:
            nonlocal size
            with name_errors(self.display_name):
                for chunk in self.chunks(context):
                    digest.update(chunk)
                    size += len(chunk)
                    yield chunk
                if not size and not may_be_empty:
                    raise FileError(EMPTY)

        with closing(read_and_count()) as chunks:
            etag = context.store.put(destination, _produce_in_thread(chunks))
        return CopyResult(size, digest.hexdigest(), etag)


def _produce_in_thread(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, read in a thread of their own, as obstore cannot read during a put."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        while (chunk := thread.submit(next, chunks, None).result()) is not None:
            yield chunk


def safe_filename(name: str) -> str:
    """The last part of a path or URL as a file name that every store and reader accepts.

    Readers such as Spark skip names that begin with a dot or an underscore.
    """
    filename = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1])
    return filename[-LONGEST_FILENAME:].lstrip("._-") or "ratings"


def hide_query(source: str) -> str:
    """The source without the query of its URL, which may be a signature."""
    if not source.startswith(("http://", "https://")):
        return source
    url, inside, member = source.partition("!/")
    return safe_url(url) + inside + member


@contextmanager
def name_errors(display_name: str) -> Iterator[None]:
    """Turn every error of a file into a UserError of one line that names the source."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{display_name} cannot be read: {error.strerror or error}") from error
    except FileError as error:
        raise UserError(f"{display_name}: {error}") from error
    except (DownloadError, UserError) as error:
        # These name an address, which may be another one.
        message = str(error)
        if display_name not in message:
            message = f"{display_name}: {message}"
        raise UserError(message) from error
