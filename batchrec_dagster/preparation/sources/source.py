"""The `source` setting: where a ratings file comes from, and how it gets into the storage."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from batchrec_dagster.preparation.layout import Layout
from batchrec_dagster.preparation.sources.archives import ArchiveError
from batchrec_dagster.preparation.sources.backends import (
    EMPTY,
    LocalFile,
    Member,
    Origin,
    OriginError,
    StoredObject,
    Surroundings,
    WebFile,
)
from batchrec_dagster.preparation.sources.download import DownloadError, shown
from batchrec_dagster.preparation.sources.folders import Folder, is_folder, parse_folder
from batchrec_dagster.preparation.sources.movielens import (
    PUBLISHED,
    RATINGS_FILE,
    SAMPLE_FILES,
    Sample,
)
from batchrec_dagster.storage.object_store import StorageError, split_uri

LONGEST_FILENAME = 120

ALLOWED = (
    "a path, s3://bucket/key, https://…, a file in a zip archive of any of these"
    " (ARCHIVE.zip!/path/in/it.csv), a folder or a pattern such as data/*.csv,"
    " sample://hetrec, or movielens:// with one of " + ", ".join(PUBLISHED)
)


class SourceError(Exception):
    """A source cannot be used; one line that names the source and the mend."""


@dataclass(frozen=True)
class SourceFile:
    """A source, looked at. `fingerprint` changes when the file does, and costs little to know.

    `source` is as declared, or of a file in a declared folder its own; `filename` is a plain name
    (letters, digits, . _ -) to keep it under, with slashes where it is in a folder.
    """

    source: str
    filename: str
    fingerprint: str


@dataclass(frozen=True)
class Copied:
    """What was copied: size in bytes, SHA-256 in hexadecimal."""

    size: int
    sha256: str


def check_source(source: str, *, many: bool = False) -> None:
    """Raise SourceError unless this can be a source, as far as is known without looking.

    `many`: a folder or a pattern can be one too.
    """
    if not many or _parse_many(source) is None:
        _parse(source)


def known_layout(source: str) -> Layout | None:
    """The layout of the ratings of a sample:// or movielens:// source, None for any other file.

    Raises SourceError for what is no source.
    """
    return None if _parse_many(source) else _parse(source).layout


def describe_source(source: str, around: Surroundings) -> SourceFile:
    """Look at the source without reading it (a web server that tells no version: by reading it).

    Raises SourceError.
    """
    parsed = _parse(source)
    with _naming(source):
        fingerprint = parsed.fingerprint(around)
    return SourceFile(source, safe_filename(parsed.name), fingerprint)


def list_source(source: str, around: Surroundings) -> list[SourceFile]:
    """Look at every file of the source, in the order of their paths; see describe_source."""
    folder = _parse_many(source)
    with _naming(source):
        folder = folder or is_folder(_parse(source), around)
        if folder is None:
            return [describe_source(source, around)]
        files = folder.files(around)
    found: dict[str, SourceFile] = {}
    for path, origin in files:
        filename = "/".join(safe_filename(part) for part in path.split("/"))
        if filename in found:
            filename += f"-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        with _naming(origin.name):
            # One without a byte is none of a folder's files less.
            found[filename] = SourceFile(origin.name, filename, origin.stamp(around))
    return list(found.values())


@contextmanager
def local_source(source: str, around: Surroundings) -> Iterator[Path]:
    """The file on this machine, to be read in place: itself where it is one, else a passing copy.

    Raises SourceError.
    """
    parsed = _parse(source)
    with _naming(source):
        path = parsed.local_path(around)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / safe_filename(parsed.name)
        with _naming(source), path.open("wb") as file:
            for chunk in parsed.chunks(around):
                file.write(chunk)
        yield path


def copy_source(source: str, destination: str, around: Surroundings) -> Copied:
    """Copy the file to the s3:// URI `destination`: all of it, or nothing is changed there.

    Raises SourceError when the source cannot be read, or is empty, StorageError when it cannot be
    written.
    """
    return _copy(source, destination, around, may_be_empty=False)


def copy_one_of_many(source: str, destination: str, around: Surroundings) -> Copied:
    """As `copy_source`, for a file that may be empty as long as others are not."""
    return _copy(source, destination, around, may_be_empty=True)


def _copy(source: str, destination: str, around: Surroundings, *, may_be_empty: bool) -> Copied:
    parsed = _parse(source)
    digest, size = hashlib.sha256(), 0

    # An error in here ends the put before anything is to be seen of it.
    def counted() -> Generator[bytes, None, None]:
        nonlocal size
        with _naming(source):
            for chunk in parsed.chunks(around):
                digest.update(chunk)
                size += len(chunk)
                yield chunk
            if not size and not may_be_empty:
                raise OriginError(EMPTY)

    with closing(counted()) as chunks:
        around.store.put(destination, _elsewhere(chunks))
    return Copied(size, digest.hexdigest())


def _elsewhere(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same, made in a thread of its own: within a put, obstore cannot be asked to read."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        while (chunk := thread.submit(next, chunks, None).result()) is not None:
            yield chunk


def safe_filename(name: str) -> str:
    """The last part of a path or URL as a file name that every store and reader takes.

    Readers such as Spark pass over names that begin with a dot or an underscore.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[/\\]", name)[-1])
    return plain[-LONGEST_FILENAME:].lstrip("._-") or "ratings"


def _parse_many(source: str) -> Folder | None:
    """The folder or pattern; None where it is a file, or a folder that does not look like one."""
    if "!/" in source or re.match(r"(?!s3:)\w+://", source) or not source.isprintable():
        return None
    with _naming(source):
        return parse_folder(source)


def _parse(source: str) -> Origin:
    if not source.strip():
        raise SourceError(f"the source is empty: write {ALLOWED}")
    if not source.isprintable():
        raise SourceError(f"{source!r} has an invisible character in it: leave it out")
    with _naming(source):
        archive, inside, member = source.partition("!/")
        if not inside:
            parsed = _parse_file(source)
            if parsed.name.lower().endswith(".zip"):
                raise OriginError("it is an archive: add !/ and the path of the file in it")
            return parsed
        if not member or member.endswith("/"):
            raise OriginError("after !/ comes the path of a file in the archive")
        parsed = _parse_file(archive)
        if not isinstance(parsed, LocalFile | StoredObject | WebFile):
            raise OriginError("write a file beside the ratings after a slash, without !")
        return Member(parsed, member)


def _parse_file(source: str) -> Origin:
    scheme, separator, rest = source.partition("://")
    if not separator:
        if re.match(r"(s3|https?|sample|movielens):", source):
            raise OriginError("after the colon come two slashes")
        return LocalFile(source)
    if scheme == "sample":
        return _parse_sample(rest)
    if scheme == "movielens":
        return _parse_movielens(rest)
    if scheme == "s3":
        return _parse_object(source)
    if scheme in {"http", "https"}:
        return _parse_url(source)
    raise OriginError(f"there is nothing under {scheme}://; write {ALLOWED}")


def _parse_sample(rest: str) -> Sample:
    name, _, file = rest.partition("/")
    if name != "hetrec":
        raise OriginError("the one sample is sample://hetrec")
    if file and file not in SAMPLE_FILES:
        raise OriginError(f"sample://hetrec has the files {', '.join(SAMPLE_FILES)}")
    return Sample(file or RATINGS_FILE)


def _parse_movielens(rest: str) -> Member:
    name, _, file = rest.partition("/")
    if name not in PUBLISHED or file.endswith("/"):
        raise OriginError(f"write movielens:// and one of {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    if file:
        return Member(published, published.member(file))
    return Member(published, published.ratings, published.layout)


def _parse_object(uri: str) -> StoredObject:
    _, key = split_uri(uri)
    if not key or key.endswith("/"):
        raise OriginError("it names a bucket or a folder: write s3://bucket/key of one object")
    return StoredObject(uri)


def _parse_url(url: str) -> WebFile:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise OriginError(f"it is no web address ({error})") from error
    if not host:
        raise OriginError("it is no web address: there is no host in it")
    if parts.username is not None:
        raise OriginError("it has a password in it, which would end in logs: use a signed address")
    if not url.isascii() or " " in url:
        raise OriginError("write spaces and letters beyond ASCII with % (a space is %20)")
    return WebFile(url)


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Make one line, which names the source, of whatever keeps it from being used."""
    try:
        yield
    except OSError as error:
        raise SourceError(f"{_named(source)} cannot be read: {error.strerror or error}") from error
    except (OriginError, ArchiveError) as error:
        raise SourceError(f"{_named(source)}: {error}") from error
    except (DownloadError, StorageError) as error:
        # These name an address, which need not be the source's.
        told = str(error)
        raise SourceError(
            told if _named(source) in told else f"{_named(source)}: {told}"
        ) from error


def _named(source: str) -> str:
    if not source.startswith(("http://", "https://")):
        return source
    archive, inside, member = source.partition("!/")
    return shown(archive) + inside + member
