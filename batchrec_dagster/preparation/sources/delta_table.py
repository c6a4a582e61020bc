"""The source for `format: delta`: the current rows of the Delta table in a folder.

A row that was deleted or changed stays in the old files until they are vacuumed. The table's log
says which files are current.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from batchrec_dagster.preparation.confined.conversions import DELTA, DELTA_FILES
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.sources.computed import ComputedRows
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, Limits
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    follow_links,
    name_errors,
)
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.objects import ObjectInfo, ObjectStore

RESULT = "table.parquet"
LOG = "_delta_log"
DOWNLOADS_AT_ONCE = 8
# The names in the log begin with the table's version, in this many digits.
VERSION_DIGITS = 20
_LOG_FILE = re.compile(rf"[0-9]{{{VERSION_DIGITS}}}\.(?:json|checkpoint\.(?:.*\.)?parquet)")
_CHECKPOINT = ".checkpoint.parquet"
_DELETION_VECTORS = "deletion_vector_*.bin"


@dataclass(frozen=True)
class DeltaTable(RowSource):
    """The source of a Parquet file with the current rows of a Delta table."""

    @classmethod
    def parse(cls, text: str) -> DeltaTable:
        """Return the table in the folder that the text names, as a path or an S3 URI.

        Raises FileError if the text cannot be a folder.
        """
        if ("://" in text and not text.startswith("s3://")) or re.search(r"[*?]|!/", text):
            raise FileError(
                "format: delta is for the folder of a table: write its path, or"
                " s3://bucket/folder, without a pattern"
            )
        return cls(text)

    def files(self, context: SourceContext) -> list[ListedFile]:
        """Return the file of the current rows.

        Its version is the name and the ETag of the newest file of the log. Raises UserError.
        """
        with name_errors(self.display_name), _explain_errors():
            table = _TableFolder.find(self.text, context)
            newest = table.list_log()[-1]
        name = _find_name(newest)
        write = partial(self._write, table, name[:VERSION_DIGITS])
        return ComputedRows(self.text, f"{name} {newest.etag}", write, RESULT).files(context)

    def _write(self, table: _TableFolder, version: str, path: Path) -> None:
        """Write the rows of this version of the table to the path.

        Raises FileError.
        """
        with (
            _explain_errors(),
            temporary_folder() as folder,
            ConfinedReader() as reader,
        ):
            copy, listing = folder.resolve() / "table", folder / "files.json"
            part = str(int(version))
            log = _choose_log(map(_find_name, table.list_log()), version)
            packed = table.provide(log, copy)
            reader.convert(DELTA_FILES, copy, listing, part=part, packed=packed)
            listed = json.loads(listing.read_bytes())
            names = [*listed["files"], *(table.find_vectors() if listed["has_vectors"] else ())]
            packed = table.provide(names, copy)
            reader.convert(DELTA, copy, path, part=part, packed=packed)


@contextmanager
def _explain_errors() -> Iterator[None]:
    """Add to the message of a FileError that the folder is declared as a Delta table."""
    try:
        yield
    except FileError as error:
        raise FileError(f"it is declared as a Delta table, but {error}") from error


def _find_name(file: ObjectInfo) -> str:
    return file.uri.rpartition("/")[2]


def _choose_log(names: Iterable[str], version: str) -> list[str]:
    """Return the paths of the log's files that are needed to read this version of the table."""
    until_version = [name for name in names if name[:VERSION_DIGITS] <= version]
    checkpoints = [name for name in until_version if name[VERSION_DIGITS:] == _CHECKPOINT]
    first = max(checkpoints, default="")[:VERSION_DIGITS]
    return [f"{LOG}/{name}" for name in until_version if name >= first]


@dataclass(frozen=True)
class _TableFolder:
    """The folder of a table.

    No file outside the folder can be read.
    """

    store: ObjectStore

    uri: str
    """The folder in the store, without a slash at its end."""

    @classmethod
    def find(cls, text: str, context: SourceContext) -> _TableFolder:
        """Return the folder that the source names.

        Raises FileError if there is no such folder.
        """
        folder = text.rstrip("/")
        if folder.startswith("s3://"):
            path = context.store.local_path(folder)
        else:
            path = context.base / Path(folder).expanduser()
        if path is None:
            return cls(context.store, folder)
        if not path.is_dir():
            raise FileError(f"there is no such folder: looked at {path}")
        return cls(ObjectStore({"table": path}), "s3://table")

    def list_log(self) -> list[ObjectInfo]:
        """Return the log's files in order of name.

        Raises FileError if there is no log.
        """
        files = [
            file
            for file in self.store.list(f"{self.uri}/{LOG}/")
            if _LOG_FILE.fullmatch(file.uri.removeprefix(f"{self.uri}/{LOG}/"))
        ]
        if not files:
            raise FileError(f"there is no log in its folder {LOG}")
        return files

    def find_vectors(self) -> list[str]:
        """Return the paths of the deletion vectors from the table's folder.

        A deletion vector is a file that says which rows of another file were deleted.
        """
        names = [file.uri.removeprefix(f"{self.uri}/") for file in self.store.list(f"{self.uri}/")]
        return [name for name in names if PurePosixPath(name).match(_DELETION_VECTORS)]

    def provide(self, names: Sequence[str], copy: Path) -> int:
        """Link the files into the folder `copy`, or download them from S3 into it.

        names: the paths from the table's folder.

        Returns the size of all files together in bytes. Raises FileError for a path that is not in
        the folder, before any file is opened. Also raises FileError for a missing file, and if all
        files together are too large to download.
        """
        for name in names:
            for text in (name, unquote(name)):
                if {"", ".", ".."} & {*text.split("/")} or ":/" in text:
                    raise FileError(
                        f"it names a file that is not in its folder, {name!r}: only files in the"
                        " folder are read. Write its current rows to a folder of their own"
                    )
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        root = self.store.local_path(self.uri)
        if root is None:
            self._download(names, copy)
        else:
            for name in names:
                _link(root, name, copy)
        return sum((copy / name).stat().st_size for name in names)

    def _download(self, names: Sequence[str], copy: Path) -> None:
        uris = [f"{self.uri}/{name}" for name in names]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as threads:
            infos = [*threads.map(self.store.head, uris)]
            if None in infos:
                raise FileError(f"a file of it is missing: {uris[infos.index(None)]}")
            most_bytes = Limits.from_environment().download_bytes
            if sum(info.size for info in infos if info is not None) > most_bytes:
                raise FileError(
                    f"its files have more than the {most_bytes} bytes of {MAX_FILE_GB}: set it"
                    " higher if that is real data"
                )
            # Making a list raises the error of a failed download.
            list(threads.map(self.store.download, uris, [copy / name for name in names]))


def _link(root: Path, name: str, copy: Path) -> None:
    """Link a file of the folder `root` into the folder `copy`.

    Raises FileError if the file is missing, or if it is a link out of `root`.
    """
    try:
        target = follow_links(root / name, root)
    except FileError as error:
        raise FileError(f"its file {name}: {error}") from error
    if not target.is_file():
        raise FileError(f"a file of it is missing: {root / name}")
    (copy / name).symlink_to(target)
