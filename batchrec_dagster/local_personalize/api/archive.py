"""A home as one file, so that a test suite starts from a trained state.

The file is a tar archive: `catalog.json`, then the data and models that it names. Nothing of it is
executed when it is imported: the catalogue is JSON, not a database file, data is Parquet and NumPy
without pickle, and only plain files below `datasets/` and `models/` are taken.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sqlite3
import tarfile
import uuid
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

from ..catalog.catalog import Catalog, Resource
from ..catalog.home import Home
from ..operations.registry import KINDS

CATALOG = "catalog.json"
FORMAT = 1
_MAX_CATALOG_BYTES = 256 << 20
_PATH = re.compile(r"(datasets|models)/(?!\.)[^/\\\x00]+")  # as the catalogue has it


class ArchiveError(ValueError):
    """A home that cannot be exported or imported; the message says why and what to do."""


def export_home(home: Path, target: Path) -> None:
    """Write the home's catalogue, data and models to the file `target`. Raises ArchiveError."""
    if not (home / "catalog.sqlite").is_file():
        raise ArchiveError(f"{home} has no catalogue: it is not the home of a local Personalize.")
    with Catalog(home / "catalog.sqlite").reading() as records:
        if unfinished := records.unfinished():
            raise ArchiveError(
                f"{len(unfinished)} jobs in {home} are not finished, such as {unfinished[0].arn}:"
                " export it when they are."
            )
        resources = records.all()
        tags = {resource.arn: records.tags(resource.arn) for resource in resources}
    rows = [asdict(resource) for resource in resources]
    text = json.dumps({"format": FORMAT, "resources": rows, "tags": tags}).encode()
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

    Returns the region and account of its first resource, if any: clients of others list nothing.
    """
    if home.exists() and any(home.iterdir()):
        raise ArchiveError(f"{home} is not empty: import into a new folder (--home).")
    home.parent.mkdir(parents=True, exist_ok=True)
    work = home.with_name(f"{home.name}.{uuid.uuid4().hex}.part")
    try:
        folders = Home(work)
        with tarfile.open(source, "r:") as archive:
            resources = _fill(folders, archive, source)
        work.rename(home)
    except (tarfile.TarError, sqlite3.Error, OSError, TypeError, LookupError) as error:
        raise ArchiveError(f"{source} cannot be imported: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not resources:
        return None
    _, _, _, region, account, _ = resources[0].arn.split(":", 5)
    return region, account


def _fill(home: Home, archive: tarfile.TarFile, source: Path) -> list[Resource]:
    content: Any = None
    for member in archive:
        if member.isdir() and _is_inside(member.name):
            continue
        file = archive.extractfile(member) if member.isreg() else None
        if file is None:
            raise ArchiveError(f"{source}: {member.name!r} is not a plain file.")
        if member.name == CATALOG and content is None:
            content = _read_catalog(file, source)
        elif _is_inside(member.name):
            path = home.root / member.name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("xb") as copy:
                shutil.copyfileobj(file, copy)
        else:
            raise ArchiveError(f"{source}: {member.name!r} does not belong into a home.")
    if content is None:
        raise ArchiveError(f"{source} has no {CATALOG}: it is not an exported home.")
    resources: list[Resource]
    resources, tags = content
    for resource in resources:
        for named in resource.files:
            if not _PATH.fullmatch(str(named)) or not (home.root / named).exists():
                raise ArchiveError(f"{source} lacks {named!r}, which {resource.arn} names.")
    with Catalog(home.catalog).writing() as records:
        for resource in resources:
            records.restore(resource)
            records.put_tags(resource.arn, tags.get(resource.arn, {}))
    return resources


def _read_catalog(file: IO[bytes], source: Path) -> tuple[list[Resource], dict[str, Any]]:
    names = {field.name for field in fields(Resource)}
    problem = f"{source}: {CATALOG} is not the catalogue of a home."
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        content = json.loads(file.read(_MAX_CATALOG_BYTES))
        if content["format"] != FORMAT:
            problem = f"{source} has format {content['format']}; this version reads {FORMAT}."
        elif all(row.keys() == names and row["kind"] in KINDS for row in content["resources"]):
            return [Resource(**row) for row in content["resources"]], dict(content["tags"])
    raise ArchiveError(problem)


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return parts[0] in ("datasets", "models") and not {"", ".", ".."} & set(parts)
