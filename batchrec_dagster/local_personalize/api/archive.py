"""A home as one file, so that a test suite starts from a trained state.

The file is a tar archive: `catalog.json`, then the data and models that it names. It may come from
anybody, so nothing of it is executed or believed when it is imported. The catalogue is JSON, not a
database file, and has finished resources only; data is Parquet and NumPy without pickle; and only
plain files are taken, of those that a resource of the catalogue owns. What models contain is
checked whenever they are loaded (`learning/store.py`).
"""

from __future__ import annotations

import io
import math
import os
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
from ..learning.models import HELD_OUT
from ..learning.store import MANIFEST
from .archived_resources import ArchivedCatalog, ArchivedCatalogError

CATALOG = "catalog.json"
MAX_CATALOG_BYTES = 64 << 20
MAX_FILES = 1000  # of one model, or of one import of data

# Parquet is compressed. As for sources: what unfolds to far more is not data.
MAX_FILE_GB = "BATCHREC_MAX_FILE_GB"
_TIMES_LARGER = 200
_ALWAYS_ALLOWED = 100_000_000
_BYTES_OF_A_ROW = 24

# Bytes read at once. tarfile reads the headers of long names whole, and slowly if they are large.
_READ_BYTES = 16 << 10
_PLAIN = tarfile.REGTYPE, tarfile.AREGTYPE

_ARRAYS = rf"({re.escape(MANIFEST)}|[\w-][\w.-]*\.npy)"
# What may be in the folder of a model or of an import; "" is the import itself, of old versions.
_MODEL_FILE = re.compile(rf"({HELD_OUT}/)?{_ARRAYS}", re.ASCII)
_DATA_FILE = re.compile(rf"|{re.escape(ROWS)}|{INTERACTIONS}/{_ARRAYS}", re.ASCII)
_FOLDERS = {"models": ("", HELD_OUT), "datasets": ("", INTERACTIONS)}


class ArchiveError(ValueError):
    """A home that cannot be exported or imported; the message says why and what to do."""


def export_home(home: Path, target: Path) -> None:
    """Write the home's catalogue, data and models to the file `target`. Raises ArchiveError."""
    if not (home / "catalog.sqlite").is_file():
        raise ArchiveError(f"{home} has no catalogue: it is not the home of a local Personalize.")
    with Catalog(home / "catalog.sqlite").open_for_reading() as transaction:
        if unfinished := transaction.list_unfinished():
            raise ArchiveError(
                f"{len(unfinished)} jobs in {home} are not finished, such as {unfinished[0].arn}:"
                " export it when they are."
            )
        # The owner is a process of this machine.
        resources = [replace(resource, owner=None) for resource in transaction.list_all()]
        tags = {resource.arn: transaction.read_tags(resource.arn) for resource in resources}
    catalog = ArchivedCatalog(resources, tags)
    text = catalog.to_json()
    try:
        catalog.check()
    except ArchivedCatalogError as error:
        raise ArchiveError(f"{home} cannot be exported, as nobody could import it: {error}.") from (
            error
        )
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
            for path in sorted({path for resource in resources for path in resource.files}):
                archive.add(home / path, path)
        part.rename(target)
    except FileNotFoundError as error:
        if not target.parent.is_dir():
            raise ArchiveError(f"there is no folder {target.parent}: create it.") from None
        raise ArchiveError(f"{home} changed in the meantime ({error}): export it again.") from None
    finally:
        part.unlink(missing_ok=True)


def import_home(source: Path, home: Path) -> tuple[str, str] | None:
    """Make the home from an exported file; complete, or not at all. Raises ArchiveError.

    Nothing runs in it by itself: there are no unfinished jobs, and automatic training is off.
    Returns the region and account of its first resource, if any: clients of others list nothing.
    """
    if home.exists() and any(home.iterdir()):
        raise ArchiveError(f"{home} is not empty: import into a new folder (--home).")
    home.parent.mkdir(parents=True, exist_ok=True)
    work = home.with_name(f"{home.name}.{uuid.uuid4().hex}.part")
    try:
        folders = Home(work)
        with _BoundedFile(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            resources = _write_home(folders, archive, source.stat().st_size)
        work.rename(home)
    except (ArchiveError, ArchivedCatalogError) as error:
        raise ArchiveError(_make_printable(f"{source} cannot be imported: {error}.")) from error
    except _READ_ERRORS as error:
        raise ArchiveError(_make_printable(f"{source} cannot be imported: {error}")) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not resources:
        return None
    _, _, _, region, account, _ = resources[0].arn.split(":", 5)
    return region, account


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


class _BoundedFile(io.FileIO):
    """A file that gives a few bytes at once: a header in it cannot ask for more."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _READ_BYTES:
            raise ArchiveError("it has a header that is too large")
        return super().read(size) or b""


def _write_home(home: Home, archive: tarfile.TarFile, archive_bytes: int) -> list[Resource]:
    """Write the archive's files and then its catalogue into the home; returns the resources.

    `archive_bytes` is the size of the archive's file, which is not compressed: so its files
    together cannot be larger. Raises ArchiveError, ArchivedCatalogError.
    """
    members = iter(archive)
    first = next(members, None)
    if first is None or first.name != CATALOG:
        raise ArchiveError(f"it does not start with {CATALOG}, so it is not an exported home")
    catalog = ArchivedCatalog.from_json(_read_catalog(archive, first))
    owned = {path for resource in catalog.resources for path in resource.files}
    counts: Counter[str] = Counter()
    left = archive_bytes
    for member in members:
        owner, inside = _find_owner(member, owned)
        counts[owner] += 1
        if counts[owner] > MAX_FILES:
            raise ArchiveError(f"{owner!r} has more than {MAX_FILES} files")
        path = home.root / member.name
        if member.isdir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists():
            raise ArchiveError(f"{member.name!r} is there twice")
        with path.open("xb") as copy:
            for chunk in _read_chunks(archive, member):
                left -= len(chunk)
                if left < 0:
                    raise ArchiveError(f"its files are larger than itself, at {member.name!r}")
                copy.write(chunk)
        if owner.startswith("datasets/") and inside in ("", ROWS):
            _check_parquet(path, member.name)
    _check_complete(home, catalog)
    catalog, stopped = catalog.remove_schedules()
    with Catalog(home.catalog).open_for_writing() as transaction:
        for resource in catalog.resources:
            transaction.restore(resource)
            transaction.put_tags(resource.arn, catalog.tags.get(resource.arn, {}))
    if stopped:
        logger.warning(
            "Automatic training is off in the imported home, for %s solutions such as %s: turn it"
            " on with UpdateSolution (performAutoTraining).",
            len(stopped),
            stopped[0],
        )
    return catalog.resources


def _find_owner(member: tarfile.TarInfo, owned: set[str]) -> tuple[str, str]:
    """The path that the catalogue names, and the rest of the member's. Raises ArchiveError."""
    folder, _, rest = member.name.partition("/")
    name, _, inside = rest.partition("/")
    owner = f"{folder}/{name}"
    if not _is_plain(member) and not member.isdir():
        raise ArchiveError(f"{member.name!r} is not a plain file")
    if owner in owned and folder in _FOLDERS:
        if member.isdir() and inside in _FOLDERS[folder]:
            return owner, inside
        pattern = _MODEL_FILE if folder == "models" else _DATA_FILE
        if not member.isdir() and pattern.fullmatch(inside):
            return owner, inside
    raise ArchiveError(
        f"{member.name!r} does not belong to any resource in its {CATALOG}. Export the home again"
    )


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it is a file whose bytes are all there: a sparse one can be larger than any disk."""
    return member.type in _PLAIN and not member.issparse() and member.size >= 0


def _read_catalog(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
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
            whole = home.root / path
            needed = whole / (ROWS if path.startswith("datasets/") else MANIFEST)
            if not needed.is_file() and not (path.startswith("datasets/") and whole.is_file()):
                raise ArchiveError(
                    f"it lacks {path!r}, or a part of it, which {resource.arn} names"
                )


def _check_parquet(path: Path, name: str) -> None:
    """Raise ArchiveError if a few bytes stand for so many rows that no data look so."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"{name!r} is not Parquet ({error})") from error
    groups = map(footer.row_group, range(footer.num_row_groups))
    unfolded = max(
        sum(group.total_byte_size for group in groups), footer.num_rows * _BYTES_OF_A_ROW
    )
    packed = path.stat().st_size
    if unfolded > _find_max_unfolded(packed):
        raise ArchiveError(
            f"{name!r} would unfold to {footer.num_rows} rows ({unfolded} bytes) from {packed},"
            f" more than what {MAX_FILE_GB} allows: if it is real data, set it higher"
        )


def _find_max_unfolded(packed: int) -> float:
    """The bytes that a file of `packed` bytes may unfold to. Raises ArchiveError."""
    text = os.environ.get(MAX_FILE_GB, "").strip()
    if not text:
        return max(_ALWAYS_ALLOWED, _TIMES_LARGER * packed)
    try:
        most = float(text) * 1e9
    except ValueError:
        most = math.nan
    if not 0 < most < math.inf:
        raise ArchiveError(f"{MAX_FILE_GB} is {text!r}: set a number above 0")
    return most


def _make_printable(text: str) -> str:
    """The text without what would control a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
