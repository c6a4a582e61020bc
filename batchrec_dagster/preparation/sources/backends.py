"""The places that files come from: a disk, a bucket, the web, a generator, an archive.

What cannot be used raises OriginError, ArchiveError, DownloadError, StorageError or OSError;
`sources` makes one error of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources.archives import DamagedError, find_member, read_member
from batchrec_dagster.preparation.sources.download import download, look_up
from batchrec_dagster.storage.object_store import ObjectInfo, ObjectStore

CHUNK = 1024 * 1024
EMPTY = "it is empty: look at what was to write it"


class OriginError(Exception):
    """A file cannot be used; the message says why, not which."""


class SampleFiles(Protocol):
    """The generated data set: each file's generator, and what changes when a byte of them does."""

    FINGERPRINT: str
    FILES: Mapping[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Surroundings:
    """Where buckets are, where relative paths start, where downloads are kept, and the sample."""

    store: ObjectStore
    base: Path
    cache: Path
    sample: SampleFiles


class Origin(Protocol):
    """A file. `layout`, where it is known to hold ratings in this layout."""

    @property
    def name(self) -> str: ...

    @property
    def layout(self) -> Layout | None: ...

    def fingerprint(self, around: Surroundings) -> str:
        """What changes when the file does, found out without reading it if possible."""

    def chunks(self, around: Surroundings) -> Iterator[bytes]: ...

    def local_path(self, around: Surroundings) -> Path | None:
        """Where it lies on this machine, if it does."""


class Archive(Protocol):
    """Where a whole archive can be had as a local file, which is what reading one takes."""

    def fingerprint(self, around: Surroundings) -> str: ...

    def file(self, around: Surroundings) -> Path: ...


@dataclass(frozen=True)
class LocalFile:
    path: str
    layout: None = None

    @property
    def name(self) -> str:
        return self.path

    def fingerprint(self, around: Surroundings) -> str:
        if not self.file(around).stat().st_size:
            raise OriginError(EMPTY)
        return self.stamp(around)

    def stamp(self, around: Surroundings) -> str:
        """The fingerprint, also of a file without a byte."""
        with self.file(around).open("rb") as file:
            return _stamp(file)

    def local_path(self, around: Surroundings) -> Path:
        return self.file(around)

    def file(self, around: Surroundings) -> Path:
        try:
            path = around.base / Path(self.path).expanduser()
        except RuntimeError as error:
            raise OriginError("there is no such home folder: write the whole path") from error
        if path.is_dir():
            raise OriginError("it is a folder: name a file in it")
        if not path.is_file():
            found = "it is no regular file" if path.exists() else "there is no such file"
            raise OriginError(f"{found}: looked at {path}")
        return path

    def chunks(self, around: Surroundings) -> Iterator[bytes]:
        with self.file(around).open("rb") as file:
            before = _stamp(file)
            yield from _pieces(file)
            if _stamp(file) != before:
                raise OriginError("it was changed while it was read: try again when it is written")


@dataclass(frozen=True)
class StoredObject:
    uri: str
    layout: None = None
    listed: ObjectInfo | None = field(default=None, compare=False)
    """What a listing told of it: then there is no need to ask again."""

    @property
    def name(self) -> str:
        return self.uri

    def fingerprint(self, around: Surroundings) -> str:
        if not self._info(around).size:
            raise OriginError(EMPTY)
        return self.stamp(around)

    def stamp(self, around: Surroundings) -> str:
        """The fingerprint, also of an object without a byte."""
        info = self.listed or self._info(around)
        return f"etag {info.etag}" if info.etag else f"{info.size} bytes, {info.last_modified}"

    def local_path(self, around: Surroundings) -> Path | None:
        self._info(around)
        return around.store.local_path(self.uri)

    def file(self, around: Surroundings) -> Path:
        local = around.store.local_path(self.uri)
        if local is not None:
            self._info(around)
            return local
        path = _cached(around.cache, self.uri, self.fingerprint(around))
        if not path.exists():
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            try:
                around.store.download(self.uri, part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path

    def chunks(self, around: Surroundings) -> Iterator[bytes]:
        return around.store.chunks(self.uri)

    def _info(self, around: Surroundings) -> ObjectInfo:
        info = around.store.head(self.uri)
        if info is None:
            raise OriginError("there is no such object: look at the bucket and the key")
        return info


@dataclass(frozen=True)
class WebFile:
    url: str
    layout: None = None

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.url).path)

    def fingerprint(self, around: Surroundings) -> str:
        remote = look_up(self.url)
        if remote.size == 0:
            raise OriginError(EMPTY)
        if remote.version is not None:
            return f"{remote.version}, {remote.size} bytes"
        with self._fresh(around).open("rb") as file:
            return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"

    def file(self, around: Surroundings) -> Path:
        remote = look_up(self.url)
        if remote.version is None:
            return self._fresh(around)
        path = _cached(around.cache, self.url, f"{remote.version}, {remote.size} bytes")
        download(self.url, path)
        return path

    def chunks(self, around: Surroundings) -> Iterator[bytes]:
        path = self.file(around)
        with path.open("rb") as file:
            yield from _pieces(file)
        # It is where it was to go; an archive is kept, for the other files in it.
        path.unlink(missing_ok=True)

    def local_path(self, around: Surroundings) -> None:
        return None

    def _fresh(self, around: Surroundings) -> Path:
        path = _cached(around.cache, self.url, "unknown")
        path.unlink(missing_ok=True)
        download(self.url, path)
        return path


@dataclass(frozen=True)
class Member:
    archive: Archive
    name: str
    layout: Layout | None = None

    def local_path(self, around: Surroundings) -> None:
        return None

    def fingerprint(self, around: Surroundings) -> str:
        if isinstance(self.archive, LocalFile):
            find_member(self.archive.file(around), self.name)
        return f"{self.archive.fingerprint(around)}!/{self.name}"

    def chunks(self, around: Surroundings) -> Iterator[bytes]:
        path = self.archive.file(around)
        try:
            yield from read_member(path, self.name)
        except DamagedError:
            # What was downloaded is not kept for the next attempt; what is the user's own stays.
            if path.is_relative_to(around.cache):
                path.unlink(missing_ok=True)
            raise


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(CHUNK), b"")


def _stamp(file: IO[bytes]) -> str:
    status = os.fstat(file.fileno())
    return f"{status.st_size} bytes, {status.st_mtime_ns} ns"


def _cached(cache: Path, address: str, version: str) -> Path:
    """Where this version of what is at the address is kept; other versions of it are removed."""
    cache.mkdir(parents=True, exist_ok=True)
    stem, version = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (address, version))
    path = cache / f"{stem}-{version}"
    for other in cache.glob(f"{stem}-*"):
        if not other.name.startswith(path.name):
            other.unlink(missing_ok=True)
    return path
