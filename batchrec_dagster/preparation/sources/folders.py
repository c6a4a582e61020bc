"""Many files under one name: a folder, or a pattern such as `orders/2026-*.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from batchrec_dagster.preparation.sources.backends import (
    LocalFile,
    OriginError,
    StoredObject,
    Surroundings,
)
from batchrec_dagster.storage.object_store import split_uri

_WILD = re.compile(r"[*?]")


@dataclass(frozen=True)
class Folder:
    """The files under `root` whose path from there matches `pattern`: `*` and `?` stand for
    characters of a name, `**/` for any folders. A name that begins with `.` or `_` is passed over,
    as Spark and its like do with what they write beside data."""

    root: str
    pattern: str

    def files(self, around: Surroundings) -> list[tuple[str, LocalFile | StoredObject]]:
        """Their paths from the root, in order, and the files."""
        matches = re.compile(_expression(self.pattern)).fullmatch
        found = sorted(
            (path, origin)
            for path, origin in self._all(around)
            if matches(path) and not any(part[0] in "._" for part in PurePosixPath(path).parts)
        )
        if not found:
            raise OriginError("there is no file that it stands for: look at the folder and names")
        return found

    def _all(self, around: Surroundings) -> Iterator[tuple[str, LocalFile | StoredObject]]:
        if self.root.startswith("s3://"):
            for info in around.store.list(self.root):
                yield info.uri.removeprefix(self.root), StoredObject(info.uri, listed=info)
            return
        try:
            folder = around.base / Path(self.root).expanduser()
        except RuntimeError as error:
            raise OriginError("there is no such home folder: write the whole path") from error
        if not folder.is_dir():
            raise OriginError(f"there is no such folder: looked at {folder}")
        for path in folder.rglob("*"):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), LocalFile(str(path))


def parse_folder(source: str) -> Folder | None:
    """The folder or pattern that a path or `s3://` URI is; None for what may be a single file.

    A local path without a slash at its end may be either: ask `is_folder`.
    """
    wild = _WILD.search(source)
    if wild:
        root, slash, _ = source[: wild.start()].rpartition("/")
        if source.startswith("s3://") and not root.removeprefix("s3:/").strip("/"):
            raise OriginError("write the bucket without a wildcard")
        return _folder(root + slash, source[len(root) + len(slash) :])
    if source.endswith("/"):
        return _folder(source, "**")
    return None


def is_folder(origin: object, around: Surroundings) -> Folder | None:
    """The folder that a path without a slash at its end turns out to be."""
    if isinstance(origin, LocalFile):
        path = around.base / Path(origin.path).expanduser()
        if path.is_dir():
            return _folder(origin.path + "/", "**")
    return None


def _folder(root: str, pattern: str) -> Folder:
    if root.startswith("s3://"):
        split_uri(root)
    return Folder(root, pattern)


def _expression(pattern: str) -> str:
    """The pattern as a regular expression."""
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(words.get(part, re.escape(part)) for part in parts)
