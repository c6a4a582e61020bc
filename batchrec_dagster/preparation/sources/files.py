"""Files on a disk, in a bucket and on the web, and folders of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Self
from urllib.parse import unquote, urlsplit

from batchrec_dagster.preparation.sources.download import describe_remote_file, download
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.file_snapshot import FileSnapshot
from batchrec_dagster.preparation.sources.source import (
    File,
    FileDescription,
    ListedFile,
    RatingsSource,
    SourceContext,
    follow_links,
    name_errors,
    safe_filename,
)
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.objects import ObjectInfo, split_uri

CHUNK = 1024 * 1024
_WILD = re.compile(r"[*?]")
# Files for people, which are skipped in a folder that is named as a whole.
_NOT_DATA = re.compile(
    r"(?:readme|licen[sc]e|copying|notice|changelog|citation)(?:\.\w+)?|.*\.(?:md|rst|pdf|html?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LocalFile(File):
    """A path; one of a folder lists the folder's files."""

    within: Path | None = field(default=None, compare=False)
    """The folder in which it was found, out of which it must not link."""

    snapshot: FileSnapshot | None = field(default=None, compare=False)
    """What the file was like when the source was listed; None before that."""

    def with_snapshot(self, context: SourceContext) -> LocalFile:
        return replace(self, snapshot=self._take_snapshot(context))

    def has_changed(self, context: SourceContext) -> bool:
        if self.snapshot is None:
            return False
        try:
            return self._take_snapshot(context).version != self.snapshot.version
        except (FileError, OSError):
            return True  # It is gone.

    def describe(self, context: SourceContext) -> FileDescription:
        snapshot = self.snapshot or self._take_snapshot(context)
        return FileDescription(snapshot.size, snapshot.version)

    def _take_snapshot(self, context: SourceContext) -> FileSnapshot:
        with self.path(context).open("rb") as file:
            return FileSnapshot.take(file)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        """The content as of the snapshot.

        If the file grew since, it lacks a last line that was not yet complete then.
        """
        with self.path(context).open("rb") as file:
            snapshot = self.snapshot or FileSnapshot.take(file)
            size = snapshot.complete_lines_size
            if size < 0:
                size = snapshot.size
            yield from _read_bytes(file, size)
            last_line = file.read(snapshot.size - size)
            if FileSnapshot.take(file).version != snapshot.version:
                if not snapshot.only_grew(file):
                    raise FileError(
                        "it was rewritten while this run read it: try again when it is complete"
                    )
                last_line = b""
            if last_line:
                yield last_line

    def local_path(self, context: SourceContext) -> Path:
        return self.path(context)

    def path(self, context: SourceContext) -> Path:
        path = _expand_path(self.text, context)
        if path.is_dir():
            raise FileError("it is a folder: name a file in it")
        if not path.is_file():
            reason = "it is not a regular file" if path.exists() else "there is no such file"
            raise FileError(reason if str(path) == self.text else f"{reason}: looked at {path}")
        if self.within:
            follow_links(path, self.within)
        return path

    def files(self, context: SourceContext) -> list[ListedFile]:
        with name_errors(self.display_name):
            is_folder = _expand_path(self.text, context).is_dir()
        if is_folder:
            return Folder(self.text, f"{self.text}/", "**").files(context)
        return super().files(context)


@dataclass(frozen=True)
class S3File(File):
    """`s3://bucket/key`."""

    snapshot: ObjectInfo | None = field(default=None, compare=False)
    """What a listing said of the object, which saves a request. Only this version of it is read."""

    def with_snapshot(self, context: SourceContext) -> S3File:
        return replace(self, snapshot=self.snapshot or self._request_info(context))

    @classmethod
    def parse(cls, text: str) -> Self:
        _, key = split_uri(text)
        if not key or key.endswith("/"):
            raise FileError("it names a bucket or a folder: write s3://bucket/key of one object")
        return cls(text)

    def describe(self, context: SourceContext) -> FileDescription:
        info = self.snapshot or self._request_info(context)
        version = f"etag {info.etag}" if info.etag else f"{info.size} bytes, {info.last_modified}"
        return FileDescription(info.size, version)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        self._check_links(context)
        etag = self.snapshot.etag if self.snapshot else None
        yield from context.store.chunks(self.text, etag)

    def local_path(self, context: SourceContext) -> Path | None:
        self._request_info(context)
        self._check_links(context)
        return context.store.local_path(self.text)

    def path(self, context: SourceContext) -> Path:
        """The object as a file on this machine, downloaded where it is not one."""
        local = self.local_path(context)
        if local is not None:
            return local
        file = self.with_snapshot(context)
        path = _cache_path(context.cache, self.text, file.describe(context).version)
        if not path.exists():
            durable.write(path, file.chunks(context))
        return path

    def remove_downloads(self, context: SourceContext) -> None:
        _remove_versions(context.cache, self.text)

    def _check_links(self, context: SourceContext) -> None:
        """Raise FileError if a local folder takes the place of the bucket, and the object is a link
        out of it."""
        path = context.store.local_path(self.text)
        if path is not None:
            bucket, _ = split_uri(self.text)
            follow_links(path, context.store.folders[bucket])

    def _request_info(self, context: SourceContext) -> ObjectInfo:
        info = context.store.head(self.text)
        if info is None:
            raise FileError("there is no such object: check the bucket and the key")
        return info


@dataclass(frozen=True)
class WebFile(File):
    """`http://` or `https://`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise FileError(f"it is not a web address ({error})") from error
        if not host:
            raise FileError("it is not a web address: there is no host in it")
        if parts.username is not None:
            raise FileError("it has a password in it, which would get into logs: sign the address")
        if not text.isascii() or " " in text:
            raise FileError("write spaces and letters beyond ASCII with % (a space is %20)")
        return cls(text)

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.text).path)

    def describe(self, context: SourceContext) -> FileDescription:
        remote = describe_remote_file(self.text)
        if remote.version is not None or remote.size == 0:
            return FileDescription(remote.size, f"{remote.version}, {remote.size} bytes")
        # A server that gives no version: only the content says whether it changed.
        with self._download_again(context).open("rb") as file:
            return FileDescription(
                None, f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
            )

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        path = self.path(context)
        yield from durable.read_pieces(path)
        # It is copied; only archives stay in the cache, for the other files in them.
        path.unlink(missing_ok=True)

    def path(self, context: SourceContext) -> Path:
        remote = describe_remote_file(self.text)
        if remote.version is None:
            return self._download_again(context)
        path = _cache_path(context.cache, self.text, f"{remote.version}, {remote.size} bytes")
        download(self.text, path)
        return path

    def _download_again(self, context: SourceContext) -> Path:
        path = _cache_path(context.cache, self.text, "unknown")
        path.unlink(missing_ok=True)
        download(self.text, path)
        return path

    def remove_downloads(self, context: SourceContext) -> None:
        _remove_versions(context.cache, self.text)


@dataclass(frozen=True)
class Folder(RatingsSource):
    """The files below a folder whose path from there matches a pattern.

    Names that begin with `.` or `_` are skipped, as Spark does. If the source names the folder
    itself and not a pattern, so are files for people, such as a README.
    """

    text: str
    """The source as it is declared."""

    root: str
    """The folder, with a slash at its end."""

    pattern: str
    """`*` and `?` match characters of a name, and `**/` matches any folders."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The folder or pattern of a path or `s3://` URI; None for what may be a single file.

        A local path without a slash at its end may be either: LocalFile looks.
        """
        wild = _WILD.search(text)
        if not wild and not text.endswith("/"):
            return None
        root = text if not wild else "".join(text[: wild.start()].rpartition("/")[:2])
        if text.startswith("s3://"):
            if not root.removeprefix("s3:/").strip("/"):
                raise FileError("write the bucket without a wildcard")
            split_uri(root)
        return cls(text, root, text[len(root) :] or "**")

    @property
    def display_name(self) -> str:
        return self.text

    def files(self, context: SourceContext) -> list[ListedFile]:
        """The files by path. Empty files still count. Raises UserError."""
        matches = re.compile(_build_regex(self.pattern)).fullmatch
        with name_errors(self.display_name):
            files = [
                (path, file)
                for path, file in sorted(self._list_all(context), key=lambda pair: pair[0])
                if matches(path)
                and not any(part[0] in "._" for part in PurePosixPath(path).parts)
                and not (self.pattern == "**" and _NOT_DATA.fullmatch(PurePosixPath(path).name))
            ]
            if not files:
                raise FileError("no file matches: check the folder and the names")
        listed_files: dict[str, ListedFile] = {}
        for path, file in files:
            filename = "/".join(safe_filename(part) for part in path.split("/"))
            if filename in listed_files:
                filename += f"-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
            with name_errors(file.display_name):
                snapshot = file.with_snapshot(context)
            fingerprint = snapshot.fingerprint(context, may_be_empty=True)
            listed_files[filename] = ListedFile(snapshot, filename, fingerprint)
        return list(listed_files.values())

    def _list_all(self, context: SourceContext) -> Iterator[tuple[str, File]]:
        if self.root.startswith("s3://"):
            for info in context.store.list(self.root):
                yield info.uri.removeprefix(self.root), S3File(info.uri, info)
            return
        folder = _expand_path(self.root, context)
        if not folder.is_dir():
            raise FileError(f"there is no such folder: looked at {folder}")
        for path in folder.rglob("*"):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), LocalFile(str(path), folder)


def _build_regex(pattern: str) -> str:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _expand_path(text: str, context: SourceContext) -> Path:
    try:
        return context.base / Path(text).expanduser()
    except RuntimeError as error:
        raise FileError("there is no such home folder: write the whole path") from error


def _read_bytes(file: IO[bytes], size: int) -> Iterator[bytes]:
    """The next `size` bytes."""
    while piece := file.read(min(CHUNK, size)):
        yield piece
        size -= len(piece)


def _cache_path(cache: Path, address: str, version: str) -> Path:
    """Where this version of the address's content is kept; other versions of it are removed."""
    durable.make_folders(cache)
    durable.remove_staged(cache)
    path = cache / f"{_digest(address)}-{_digest(version)}"
    _remove_versions(cache, address, path.name)
    return path


def _remove_versions(cache: Path, address: str, name_to_keep: str | None = None) -> None:
    """Remove the files in the cache of this address.

    name_to_keep: how the names begin of those that stay.
    """
    for path in cache.glob(f"{_digest(address)}-*"):
        if name_to_keep is None or not path.name.startswith(name_to_keep):
            path.unlink(missing_ok=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
