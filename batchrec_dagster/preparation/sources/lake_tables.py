"""Tables of Delta Lake and Iceberg, read as their current snapshot.

A row that was deleted or changed stays in the old files until they are vacuumed, and the table's
log says which files are current. If they were read as loose Parquet, a user who was erased would
be there again. But a folder is a table only if the declaration says so: whoever can put files into
a folder must not decide how they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.confined.table_names import find_name_below
from batchrec_dagster.preparation.layout import TableFormat
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
from batchrec_dagster.preparation.sources.undeclared_tables import FORMATS
from batchrec_dagster.storage.durable import temporary_folder

RESULT = "table.parquet"
DOWNLOADS_AT_ONCE = 8

_METADATA = re.compile(r"v?(\d+)(?:-[^/]*)?(?:\.gz)?\.metadata\.json(?:\.gz)?")
_HINT = "version-hint.text"
_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.\d{10}\.(\d{10}))?\.parquet")


@dataclass(frozen=True)
class LakeTable(RatingsSource):
    """The source of one Parquet file: the current rows of the table in a folder."""

    text: str
    table_format: TableFormat

    @classmethod
    def parse(cls, text: str, table_format: TableFormat) -> LakeTable:
        """The table in this folder, a path or URI. Raises FileError if it cannot be a folder."""
        if ("://" in text and not text.startswith("s3://")) or re.search(r"[*?]|!/", text):
            raise FileError(
                f"format: {table_format} is for the folder of a table: write its path, or"
                " s3://bucket/folder, without a pattern"
            )
        return cls(text, table_format)

    @property
    def display_name(self) -> str:
        return self.text

    def files(self, context: SourceContext) -> list[ListedFile]:
        """The file of the current rows, whose version is the table's. Raises SourceError."""
        with name_errors(self.display_name), _open_files(self, context) as (reader, files):
            if self.table_format == "delta":
                log = _choose_delta_log(files.list_names("_delta_log"))
                table_id = reader.run("describe_delta", {"log": log}, provide=files.fetch)
                version = f"{table_id} {_parse_newest_version(log)}"
                write = partial(self._write, "read_delta", {"log": log})
            else:
                metadata = _find_current_metadata(files)
                arguments = {"metadata": metadata}
                snapshot = reader.run("describe_iceberg", arguments, provide=files.fetch)
                version = f"{snapshot} {PurePosixPath(metadata).name}"
                write = partial(self._write, "read_iceberg", arguments)
        return ResultFile(self.text, version, RESULT, write).files(context)

    def _write(
        self, job: str, arguments: Mapping[str, object], path: Path, context: SourceContext
    ) -> None:
        """Write the rows of the version that the arguments name. Raises FileError."""
        with _open_files(self, context) as (reader, files), temporary_folder() as folder:
            arguments = {**arguments, "target": str(path.absolute())}
            if job == "read_delta":
                arguments["folder"] = str(folder)
            reader.run(job, arguments, provide=files.fetch)


@contextmanager
def _open_files(
    table: LakeTable, context: SourceContext
) -> Iterator[tuple[ConfinedReader, TableFiles]]:
    """A process that reads the table, and the table's files.

    A FileError or LimitError within the block becomes a FileError that says what the folder is
    declared to be.
    """
    kind = next(kind for kind, form in FORMATS.items() if form == table.table_format)
    with temporary_folder() as downloads:
        try:
            with ConfinedReader() as reader:
                yield reader, _find_files(table.text, context, downloads)
        except (FileError, LimitError) as error:
            raise FileError(f"it is declared as {kind}, but {error}") from error


@dataclass
class TableFiles:
    """The files of the table in a folder. No file outside of the folder can be read."""

    folder: str
    """The folder's path on this machine, or its s3:// URI, without a slash at its end."""

    context: SourceContext
    downloads: Path
    """The folder that objects in S3 are downloaded to."""

    downloaded_bytes: int = 0

    @property
    def _root(self) -> Path:
        return Path(self.folder).resolve()

    @property
    def _is_stored(self) -> bool:
        return self.folder.startswith("s3://")

    def list_names(self, subfolder: str) -> list[str]:
        """The files in a subfolder of the table's folder, as paths from the table's folder.

        There are none if there is no such subfolder. Raises FileError, StorageError.
        """
        if self._is_stored:
            objects = self.context.store.list(f"{self.folder}/{subfolder}/")
            names = [entry.uri.removeprefix(f"{self.folder}/") for entry in objects]
        else:
            path = Path(self.folder, subfolder)
            names = (
                [f"{subfolder}/{entry.name}" for entry in path.iterdir()] if path.is_dir() else []
            )
        return sorted(name for name in names if str(PurePosixPath(name).parent) == subfolder)

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """The paths on this machine of the table's files. Those in S3 are downloaded.

        names: the files as the table's log names them: paths from its folder, absolute paths or
        URIs.

        Raises FileError for a file that is not in the folder, before any is opened, and for a
        missing one.
        """
        roots = [self.folder] if self._is_stored else [self.folder, str(self._root)]
        relative_names = [find_name_below(name, roots) for name in names]
        if self._is_stored:
            self._download([name for name in relative_names if not self._local_copy(name).exists()])
            return [self._local_copy(name) for name in relative_names]
        return [self._find_local_path(name) for name in relative_names]

    def _find_local_path(self, name: str) -> Path:
        path = Path(self.folder, name)
        try:
            target = follow_links(path, self._root)
        except FileError as error:
            raise FileError(f"its file {name}: {error}") from error
        if not target.is_file():
            raise FileError(f"a file of it is missing: {path}")
        return target

    def _local_copy(self, name: str) -> Path:
        return self.downloads / name

    def _download(self, names: Sequence[str]) -> None:
        """Download these files, unless all that were asked for are together too large."""
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
            self.downloaded_bytes += sum(threads.map(self._read_size, names))
            max_bytes = Limits.from_environment().download_bytes
            if self.downloaded_bytes > max_bytes:
                raise FileError(f"its files have more than the {max_bytes} bytes of {MAX_FILE_GB}")
            # The list passes on the error of a download.
            list(threads.map(self._download_file, names))

    def _read_size(self, name: str) -> int:
        info = self.context.store.head(f"{self.folder}/{name}")
        if info is None:
            raise FileError(f"a file of it is missing: {self.folder}/{name}")
        return info.size

    def _download_file(self, name: str) -> None:
        path = self._local_copy(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.context.store.download(f"{self.folder}/{name}", path)


def _find_files(text: str, context: SourceContext, downloads: Path) -> TableFiles:
    folder = text.rstrip("/")
    if folder.startswith("s3://"):
        folder = str(context.store.local_path(folder) or folder)
    else:
        folder = str(context.base / Path(folder).expanduser())
    if not folder.startswith("s3://") and not Path(folder).is_dir():
        raise FileError(f"there is no such folder: looked at {folder}")
    return TableFiles(folder, context, downloads)


def _choose_delta_log(names: Sequence[str]) -> list[str]:
    """The files of the log from which the newest version can be read, oldest first.

    They are those of the newest complete checkpoint, and the commits after it. Raises FileError.
    """
    # The files of each checkpoint, by its version and the number of files that it should have.
    parts: dict[tuple[int, int], list[str]] = {}
    commits: dict[int, str] = {}
    for name in names:
        filename = PurePosixPath(name).name
        commit, checkpoint = _COMMIT.fullmatch(filename), _CHECKPOINT.fullmatch(filename)
        if commit:
            commits[int(commit[1])] = name
        elif checkpoint:
            parts.setdefault((int(checkpoint[1]), int(checkpoint[2] or 1)), []).append(name)
    complete = [
        (version, part_count)
        for (version, part_count), files in parts.items()
        if len(files) == part_count
    ]
    newest = max(complete, default=None)
    first = newest[0] + 1 if newest else 0
    last = max(commits, default=-1)
    if not newest and last < 0:
        raise FileError("there is no log in its folder _delta_log")
    for number in range(first, last + 1):
        if number not in commits:
            raise FileError(f"commit {number} is missing in its log: copy the table again")
    checkpoint_files = sorted(parts[newest]) if newest else []
    return [*checkpoint_files, *(commits[number] for number in range(first, last + 1))]


def _parse_newest_version(log: Sequence[str]) -> int:
    return int(PurePosixPath(log[-1]).name[:20])


def _find_current_metadata(files: TableFiles) -> str:
    """The current metadata file of an Iceberg table, as a path from the table's folder.

    Raises FileError.
    """
    names = [PurePosixPath(name).name for name in files.list_names("metadata")]
    candidates = [name for name in names if _METADATA.fullmatch(name)]
    if _HINT in names:
        # A table without a catalog says itself which version is current.
        (path,) = files.fetch([f"metadata/{_HINT}"])
        with path.open("rb") as file:
            number = file.read(100).decode(errors="replace").strip()
        candidates = [
            name
            for name in candidates
            if name.startswith((f"v{number}.", f"{number}-")) or name == number
        ]
    return f"metadata/{_choose_newest_metadata(candidates)}"


def _choose_newest_metadata(names: Iterable[str]) -> str:
    """The file with the highest version. Raises FileError if there is none, or more than one."""
    names_by_version: dict[int, list[str]] = {}
    for name in names:
        match = _METADATA.fullmatch(name)
        if match is not None:
            names_by_version.setdefault(int(match[1]), []).append(name)
    newest = sorted(names_by_version[max(names_by_version)]) if names_by_version else []
    if len(newest) != 1:
        raise FileError(
            f"its metadata folder does not say which of {', '.join(newest) or 'its files'} is"
            " current, only its catalog does: write the current rows to a folder of their own"
        )
    return newest[0]
