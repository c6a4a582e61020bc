"""A home as one file, so that a test suite starts from a trained state.

The file is a tar archive: `catalog.json`, then the data and models that it names. It may come from
anybody, so nothing of it is executed or believed when it is imported. The catalogue is JSON, not a
database file, and has finished resources only; data is Parquet and NumPy without pickle; and only
plain files are taken, of those that a resource of the catalogue owns. What models contain is
checked whenever they are loaded (`learning/store.py`).
"""

from __future__ import annotations

import io
import re
import shutil
import sqlite3
import tarfile
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..catalog.catalog import Catalog
from ..catalog.home import Home
from ..catalog.resource import Resource
from ..data.datasets import INTERACTIONS, ROWS
from ..jobs.job import logger
from ..learning.blend import HELD_OUT
from ..learning.choices import CHOICES
from ..learning.store import MANIFEST
from .archived_resources import ArchivedCatalog, ArchivedCatalogError
from .archived_rows import ArchivedRowsError, check_parquet

CATALOG = "catalog.json"
MAX_CATALOG_BYTES = 64 << 20
MAX_FILES = 1000
"""How many files one model, or one import of data, may have."""

_READ_BYTES = 16 << 10
"""How many bytes are read at once: tarfile reads headers whole, and slowly if they are large."""

_PLAIN_TYPES = tarfile.REGTYPE, tarfile.AREGTYPE

# What may be in the folder of a model or of an import. In older versions an import was a file, not
# a folder, whose path inside the import is empty.
_ARRAYS = rf"({re.escape(MANIFEST)}|[\w-][\w.-]*\.npy)"
_MODEL_FILE = re.compile(rf"(({HELD_OUT}|{CHOICES})/)?{_ARRAYS}", re.ASCII)
_DATA_FILE = re.compile(rf"|{re.escape(ROWS)}|{INTERACTIONS}/{_ARRAYS}", re.ASCII)
_FOLDERS = {"models": ("", HELD_OUT, CHOICES), "datasets": ("", INTERACTIONS)}

_READ_ERRORS = (
    tarfile.TarError,
    sqlite3.Error,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What tarfile, JSON and SQLite raise for files that nobody exported."""


class ArchiveError(ValueError):
    """A home cannot be exported or imported. The message says why and what to do."""


def export_home(home: Path, target: Path) -> None:
    """Write the home's catalogue, data and models to the file `target`.

    Raises ArchiveError if the folder is not a home, has unfinished jobs, or could not be imported.
    """
    catalog = _read_exportable(home)
    text = catalog.to_json()
    if len(text) > MAX_CATALOG_BYTES:
        raise ArchiveError(
            f"{home} cannot be exported: its catalogue has {len(text)} bytes, and"
            f" {MAX_CATALOG_BYTES} at most can be imported. Delete solutions and datasets first."
        )
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        with tarfile.open(part, "w") as archive:
            entry = tarfile.TarInfo(CATALOG)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text))
            paths = {path for resource in catalog.resources for path in resource.files}
            for path in sorted(paths):
                archive.add(home / path, path)
        part.rename(target)
    except FileNotFoundError as error:
        if not target.parent.is_dir():
            raise ArchiveError(f"there is no folder {target.parent}: create it.") from None
        raise ArchiveError(f"{home} changed in the meantime ({error}): export it again.") from None
    finally:
        part.unlink(missing_ok=True)


def _read_exportable(home: Path) -> ArchivedCatalog:
    """Return the home's catalogue, which could be imported. Raises ArchiveError."""
    if not (home / "catalog.sqlite").is_file():
        raise ArchiveError(f"{home} has no catalogue: it is not the home of a local Personalize.")
    with Catalog(home / "catalog.sqlite").open_for_reading() as transaction:
        unfinished = transaction.list_unfinished()
        if unfinished:
            raise ArchiveError(
                f"{len(unfinished)} jobs in {home} are not finished, such as {unfinished[0].arn}:"
                " export it when they are."
            )
        # An owner is a process of this machine.
        resources = [replace(resource, owner=None) for resource in transaction.list_all()]
        tags = {resource.arn: transaction.read_tags(resource.arn) for resource in resources}
    catalog = ArchivedCatalog(resources, tags)
    try:
        catalog.check()
    except ArchivedCatalogError as error:
        raise ArchiveError(
            f"{home} cannot be exported, as nobody could import it: {error}."
        ) from error
    return catalog


def import_home(source: Path, home: Path) -> tuple[str, str] | None:
    """Make the home from an exported file, completely or not at all.

    Nothing runs in it by itself: there are no unfinished jobs, and automatic training is off.

    Returns the region and the account of its first resource, or None if it has none. Clients of
    other regions or accounts list nothing.

    Raises ArchiveError if the home is not empty, or the file cannot be imported.
    """
    if home.exists() and any(home.iterdir()):
        raise ArchiveError(f"{home} is not empty: import into a new folder (--home).")
    home.parent.mkdir(parents=True, exist_ok=True)
    work = home.with_name(f"{home.name}.{uuid.uuid4().hex}.part")
    try:
        with _BoundedFile(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            resources = _write_home(Home(work), archive, source.stat().st_size)
        work.rename(home)
    except (ArchiveError, ArchivedCatalogError, ArchivedRowsError) as error:
        raise ArchiveError(_make_printable(f"{source} cannot be imported: {error}.")) from error
    except _READ_ERRORS as error:
        raise ArchiveError(_make_printable(f"{source} cannot be imported: {error}")) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not resources:
        return None
    _, _, _, region, account, _ = resources[0].arn.split(":", 5)
    return region, account


class _BoundedFile(io.FileIO):
    """A file that gives a few bytes at once, so that a header in it cannot ask for more."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _READ_BYTES:
            raise ArchiveError("it has a header that is too large")
        return super().read(size) or b""


def _write_home(home: Home, archive: tarfile.TarFile, archive_bytes: int) -> list[Resource]:
    """Write the archive's files and then its catalogue into the home.

    Returns the resources of the catalogue.

    archive_bytes: the size of the archive. It is not compressed, so that all its files together
        cannot be larger.

    Raises ArchiveError, ArchivedCatalogError and ArchivedRowsError.
    """
    members = iter(archive)
    first = next(members, None)
    if first is None or first.name != CATALOG:
        raise ArchiveError(f"it does not start with {CATALOG}, so it is not an exported home")
    catalog = ArchivedCatalog.from_json(_read_catalog(archive, first))
    _write_files(home, archive, members, catalog, archive_bytes)
    _check_complete(home, catalog)
    catalog, stopped_arns = catalog.remove_schedules()
    with Catalog(home.catalog).open_for_writing() as transaction:
        for resource in catalog.resources:
            transaction.restore(resource)
            transaction.put_tags(resource.arn, catalog.tags.get(resource.arn, {}))
    if stopped_arns:
        logger.warning(
            "Automatic training is off in the imported home, for %s solutions such as %s: turn it"
            " on with UpdateSolution (performAutoTraining).",
            len(stopped_arns),
            stopped_arns[0],
        )
    return catalog.resources


def _write_files(
    home: Home,
    archive: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    catalog: ArchivedCatalog,
    max_bytes: int,
) -> None:
    """Write the archive's files into the home.

    members: the members of the archive after the catalogue.
    max_bytes: how large all files together may be.

    Raises ArchiveError and ArchivedRowsError.
    """
    owned_paths = {path for resource in catalog.resources for path in resource.files}
    file_counts: Counter[str] = Counter()
    bytes_left = max_bytes
    for member in members:
        owned_path, path_inside = _split_path(member, owned_paths)
        file_counts[owned_path] += 1
        if file_counts[owned_path] > MAX_FILES:
            raise ArchiveError(f"{owned_path!r} has more than {MAX_FILES} files")
        path = home.root / member.name
        if member.isdir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            raise ArchiveError(f"{member.name!r} is there twice")
        with path.open("xb") as copy:
            for chunk in _read_chunks(archive, member):
                bytes_left -= len(chunk)
                if bytes_left < 0:
                    raise ArchiveError(f"its files are larger than itself, at {member.name!r}")
                copy.write(chunk)
        if owned_path.startswith("datasets/") and path_inside in ("", ROWS):
            check_parquet(path, member.name)


def _split_path(member: tarfile.TarInfo, owned_paths: set[str]) -> tuple[str, str]:
    """Return the model or import that a member belongs to, and the member's path inside it.

    owned_paths: the paths of all models and imports in the catalogue.

    Raises ArchiveError if the member belongs to none, or is not a file that they have.
    """
    folder, _, path_in_folder = member.name.partition("/")
    name, _, path_inside = path_in_folder.partition("/")
    owned_path = f"{folder}/{name}"
    if not _is_plain(member) and not member.isdir():
        raise ArchiveError(f"{member.name!r} is not a plain file")
    if owned_path in owned_paths and folder in _FOLDERS:
        if member.isdir() and path_inside in _FOLDERS[folder]:
            return owned_path, path_inside
        pattern = _MODEL_FILE if folder == "models" else _DATA_FILE
        if not member.isdir() and pattern.fullmatch(path_inside):
            return owned_path, path_inside
    raise ArchiveError(
        f"{member.name!r} does not belong to any resource in its {CATALOG}. Export the home again"
    )


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Tell whether all bytes of a file are in the archive: a sparse one may be of any size."""
    return member.type in _PLAIN_TYPES and not member.issparse() and member.size >= 0


def _read_catalog(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the content of the catalogue. Raises ArchiveError if it is too large."""
    content = bytearray()
    if not _is_plain(member):
        raise ArchiveError(f"{member.name!r} is not a plain file")
    for chunk in _read_chunks(archive, member):
        content += chunk
        if len(content) > MAX_CATALOG_BYTES:
            raise ArchiveError(f"its {CATALOG} has more than {MAX_CATALOG_BYTES} bytes")
    return bytes(content)


def _read_chunks(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(member)
    assert file is not None
    while chunk := file.read(_READ_BYTES):
        yield chunk


def _check_complete(home: Home, catalog: ArchivedCatalog) -> None:
    """Raise ArchiveError if a file is missing without which a model or data cannot be read."""
    for resource in catalog.resources:
        for path in resource.files:
            is_data = path.startswith("datasets/")
            needed = home.root / path / (ROWS if is_data else MANIFEST)
            # In older versions an import was one file.
            is_old_import = is_data and (home.root / path).is_file()
            if not needed.is_file() and not is_old_import:
                raise ArchiveError(
                    f"it lacks {path!r}, or a part of it, which {resource.arn} names"
                )


def _make_printable(text: str) -> str:
    """Return the text without characters that would control a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
