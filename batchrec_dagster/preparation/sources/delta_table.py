"""`format: delta`: the current rows of the Delta table in a folder.

A row that was deleted or changed stays in the old files until they are vacuumed. The table's log
says which files are current.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources.computed import ResultFile
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, LimitError, Limits
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RatingsSource,
    SourceContext,
    follow_links,
    name_errors,
)
from batchrec_dagster.storage.durable import temporary_folder

RESULT = "table.parquet"
LOG = "_delta_log"
DOWNLOADS_AT_ONCE = 8
# A name in the log begins with the version of the table, in this many digits.
VERSION_DIGITS = 20
_LOG_FILE = re.compile(rf"[0-9]{{{VERSION_DIGITS}}}\.(?:json|checkpoint\.(?:.*\.)?parquet)")
_CHECKPOINT = ".checkpoint.parquet"
_DELETION_VECTORS = "deletion_vector_*.bin"


@dataclass(frozen=True)
class DeltaTable(RatingsSource):
    """The source of one Parquet file: the current rows of the table."""

    text: str

    @classmethod
    def parse(cls, text: str) -> DeltaTable:
        """The table in this folder, a path or URI. Raises FileError if it cannot be a folder."""
        if ("://" in text and not text.startswith("s3://")) or re.search(r"[*?]|!/", text):
            raise FileError(
                "format: delta is for the folder of a table: write its path, or"
                " s3://bucket/folder, without a pattern"
            )
        return cls(text)

    @property
    def display_name(self) -> str:
        return self.text

    def files(self, context: SourceContext) -> list[ListedFile]:
        """The file of the current rows, whose version is that of the newest file of the log.

        Raises UserError.
        """
        with name_errors(self.display_name), _explain_errors():
            log = _TableFolder.find(self.text, context).list_log()
        newest = max(log)
        write = partial(self._write, newest[:VERSION_DIGITS])
        return ResultFile(self.text, f"{newest} {log[newest]}", RESULT, write).files(context)

    def _write(self, version: str, path: Path, context: SourceContext) -> None:
        """Write the rows of the table's version to the path. Raises FileError."""
        with _explain_errors(), temporary_folder() as copy, ConfinedReader() as reader:
            table = _TableFolder.find(self.text, context)
            table.provide(_choose_log(table.list_log(), version), copy)
            arguments = {"folder": str(copy.resolve()), "version": int(version)}
            listed = reader.run("list_delta", arguments)
            names = [*listed["files"], *(table.find_vectors() if listed["has_vectors"] else ())]
            table.provide(names, copy)
            packed = sum((copy / name).stat().st_size for name in names)
            arguments["target"] = str(path.absolute())
            reader.run("read_delta", arguments, packed=packed)


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Let the FileError of a FileError or LimitError say what the folder is declared to be."""
    try:
        yield
    except (FileError, LimitError) as error:
        raise FileError(f"it is declared as a Delta table, but {error}") from error


def _choose_log(names: Iterable[str], version: str) -> list[str]:
    """The paths of the log's files that are needed to read this version of the table."""
    known = [name for name in names if name[:VERSION_DIGITS] <= version]
    checkpoints = [name for name in known if name[VERSION_DIGITS:] == _CHECKPOINT]
    first = max(checkpoints, default="")[:VERSION_DIGITS]
    return [f"{LOG}/{name}" for name in known if name >= first]


@dataclass(frozen=True)
class _TableFolder:
    """The folder of a table. No file outside of it can be read."""

    folder: str
    """The folder's path on this machine, or its s3:// URI, without a slash at its end."""

    context: SourceContext

    @classmethod
    def find(cls, text: str, context: SourceContext) -> _TableFolder:
        """The folder that the source names. Raises FileError if there is none."""
        folder = text.rstrip("/")
        if folder.startswith("s3://"):
            folder = str(context.store.local_path(folder) or folder)
        else:
            folder = str(context.base / Path(folder).expanduser())
        if not folder.startswith("s3://") and not Path(folder).is_dir():
            raise FileError(f"there is no such folder: looked at {folder}")
        return cls(folder, context)

    @property
    def _is_stored(self) -> bool:
        return self.folder.startswith("s3://")

    def list_log(self) -> Mapping[str, str]:
        """What changes when a file of the log does, by its name. Raises FileError without a log."""
        if self._is_stored:
            prefix = f"{self.folder}/{LOG}/"
            objects = self.context.store.list(prefix)
            versions = {info.uri.removeprefix(prefix): info.etag for info in objects}
        else:
            log = Path(self.folder, LOG)
            paths = [*log.iterdir()] if log.is_dir() else []
            stats = {path.name: path.stat() for path in paths if _LOG_FILE.fullmatch(path.name)}
            versions = {
                name: f"{stat.st_size} bytes, {stat.st_mtime_ns} ns" for name, stat in stats.items()
            }
        versions = {name: text for name, text in versions.items() if _LOG_FILE.fullmatch(name)}
        if not versions:
            raise FileError(f"there is no log in its folder {LOG}")
        return versions

    def find_vectors(self) -> list[str]:
        """The paths from the folder of the files that say which rows of others were deleted."""
        if self._is_stored:
            objects = self.context.store.list(f"{self.folder}/")
            names = [info.uri.removeprefix(f"{self.folder}/") for info in objects]
            return [name for name in names if PurePosixPath(name).match(_DELETION_VECTORS)]
        root = Path(self.folder)
        return [path.relative_to(root).as_posix() for path in root.rglob(_DELETION_VECTORS)]

    def provide(self, names: Sequence[str], copy: Path) -> None:
        """Link the files into the folder `copy`; those in S3 are downloaded.

        names: the paths from the table's folder.

        Raises FileError for a file that is not in the folder, before any is opened, for a missing
        one, and if all together are too large to be downloaded.
        """
        for name in names:
            for text in (name, unquote(name)):
                if {"", ".", ".."} & {*text.split("/")} or ":/" in text:
                    raise FileError(
                        f"it names a file that is not in its folder, {name!r}: only files in the"
                        " folder are read. Write its current rows to a folder of their own"
                    )
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if self._is_stored:
            self._download(names, copy)
            return
        for name in names:
            try:
                target = follow_links(Path(self.folder, name), Path(self.folder))
            except FileError as error:
                raise FileError(f"its file {name}: {error}") from error
            if not target.is_file():
                raise FileError(f"a file of it is missing: {Path(self.folder, name)}")
            (copy / name).symlink_to(target)

    def _download(self, names: Sequence[str], copy: Path) -> None:
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
            most_bytes = Limits.from_environment().download_bytes
            if sum(threads.map(self._read_size, names)) > most_bytes:
                raise FileError(f"its files have more than the {most_bytes} bytes of {MAX_FILE_GB}")
            uris = [f"{self.folder}/{name}" for name in names]
            # The list passes on the error of a download.
            list(threads.map(self.context.store.download, uris, [copy / name for name in names]))

    def _read_size(self, name: str) -> int:
        info = self.context.store.head(f"{self.folder}/{name}")
        if info is None:
            raise FileError(f"a file of it is missing: {self.folder}/{name}")
        return info.size
