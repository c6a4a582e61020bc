"""The sources for files on this machine and in S3: single files, folders and patterns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.local_file import list_local_file
from batchrec_dagster.preparation.sources.source import (
    EMPTY,
    ListedFile,
    RowSource,
    SourceContext,
    follow_links,
    make_filename,
    name_errors,
)
from batchrec_dagster.storage.durable import compute_sha256
from batchrec_dagster.storage.objects import ObjectInfo, split_uri

_WILD = re.compile(r"[*?]")
# Files for human readers. They are skipped if the source names a whole folder.
_NOT_DATA = re.compile(
    r"(?:readme|licen[sc]e|copying|notice|changelog|citation)(?:\.\w+)?|.*\.(?:md|rst|pdf|html?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LocalFile(RowSource):
    """A local path: a file, or a folder that stands for the files in it."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        with name_errors(self.text):
            path = self.path(context)
            if not path.is_dir():
                file = list_local_file(path, self.text, make_filename(self.text))
                if path.stat().st_size == 0:
                    raise FileError(EMPTY)
                return [file]
        return Folder(self.text, f"{self.text}/", "**").files(context)

    def path(self, context: SourceContext) -> Path:
        """Return the path, without checking that a file is there.

        Raises FileError if the home folder in the path does not exist.
        """
        return _expand_path(self.text, context)


@dataclass(frozen=True)
class S3File(RowSource):
    """An object in S3: `s3://bucket/key`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the object that the URI names.

        Raises FileError if the URI names a bucket or a folder.
        """
        _, key = split_uri(text)
        if not key or key.endswith("/"):
            raise FileError("it names a bucket or a folder: write s3://bucket/key of one object")
        return cls(text)

    def files(self, context: SourceContext) -> list[ListedFile]:
        with name_errors(self.text):
            info = context.store.head(self.text)
            if info is None:
                raise FileError("there is no such object: check the bucket and the key")
            if info.size == 0:
                raise FileError(EMPTY)
            return [_list_object(info, make_filename(self.text), context)]


def _list_object(info: ObjectInfo, filename: str, context: SourceContext) -> ListedFile:
    """Return the object as a listed file that is read in the listed version only."""
    path = context.store.local_path(info.uri)

    def find() -> Path:
        """Return the file's path in the local folder that takes the place of the bucket.

        Raises FileError if the file is a link out of that folder.
        """
        assert path is not None
        return follow_links(path, context.store.folders[split_uri(info.uri)[0]])

    def read() -> Iterator[bytes]:
        if path is not None:
            find()
        return context.store.chunks(info.uri, info.etag or None)

    version = f"etag {info.etag}" if info.etag else f"{info.size} bytes, {info.last_modified}"
    if path is None:
        return ListedFile(info.uri, filename, version, read, object=info)
    return ListedFile(info.uri, filename, version, read, find=find)


@dataclass(frozen=True)
class Folder(RowSource):
    """The files below a folder that match a pattern.

    The pattern is matched against a file's path from the folder. Names that begin with `.` or `_`
    are skipped, as in Spark. If the source names the folder itself and not a pattern, files for
    human readers, such as a README, are skipped too.
    """

    root: str
    """The folder's path or URI, with a slash at its end."""

    pattern: str
    """The pattern: `*` and `?` match characters of a name, and `**/` matches any folders."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the folder or pattern that the text names; None if it may name a single file.

        text: a path or an `s3://` URI. A local path without a slash at its end may name a file or a
            folder: LocalFile finds out which.

        Raises FileError if the name of the bucket has a wildcard.
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

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the files in order of path, including empty files.

        Raises UserError.
        """
        with name_errors(self.text):
            paths = {
                path: list_file for path, list_file in self._find_all(context) if self._has(path)
            }
            if not paths:
                raise FileError("no file matches: check the folder and the names")
        files: dict[str, ListedFile] = {}
        for path, list_file in sorted(paths.items()):
            filename = "/".join(make_filename(part) for part in path.split("/"))
            if filename in files:
                filename += f"-{compute_sha256([path.encode()])[:8]}"
            with name_errors(f"{self.root}{path}"):
                files[filename] = list_file(filename)
        return [*files.values()]

    def _has(self, path: str) -> bool:
        """Return whether the file belongs to the source.

        path: the file's path from the folder.
        """
        if not re.fullmatch(_build_regex(self.pattern), path):
            return False
        if any(part[0] in "._" for part in PurePosixPath(path).parts):
            return False
        return not (self.pattern == "**" and _NOT_DATA.fullmatch(PurePosixPath(path).name))

    def _find_all(
        self, context: SourceContext
    ) -> Iterator[tuple[str, Callable[[str], ListedFile]]]:
        """Yield each file's path from the folder, and a function that lists it under a filename."""
        if self.root.startswith("s3://"):
            for info in context.store.list(self.root):
                list_object = partial(_list_object, info, context=context)
                yield info.uri.removeprefix(self.root), list_object
            return
        folder = _expand_path(self.root, context)
        if not folder.is_dir():
            raise FileError(f"there is no such folder: looked at {folder}")
        for path in folder.rglob("*"):
            if path.is_file():
                list_file = partial(list_local_file, path, str(path), folder=folder)
                yield path.relative_to(folder).as_posix(), list_file


def _build_regex(pattern: str) -> str:
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)


def _expand_path(text: str, context: SourceContext) -> Path:
    try:
        return context.base / Path(text).expanduser()
    except RuntimeError as error:
        raise FileError("there is no such home folder: write the whole path") from error
