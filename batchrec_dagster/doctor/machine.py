"""This machine: Dagster's home, the embedded Personalize's, room on the disks."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.storage.file_lock import exclusive

GB = 10**9
# Below the first nothing of size can be written; the second is a few nights of a large pipeline.
FULL, NEARLY_FULL = 1 * GB, 5 * GB


def machine_findings(deployment: Deployment) -> Iterator[Finding]:
    yield from _dagster_home(deployment.dagster_home)
    yield _writable("home", deployment.home, "BATCHREC_HOME")
    if deployment.embedded:
        yield _embedded_home(deployment.home / "personalize")
    yield from _room(deployment)


def _dagster_home(home: Path | None) -> Iterator[Finding]:
    check = "dagster home"
    if home is None:
        yield failed(
            check,
            "DAGSTER_HOME is not set: Dagster forgets its runs when it stops",
            "set it to a folder with a dagster.yaml in it (make uses .batchrec/dagster)",
        )
        return
    yield _writable(check, home, "DAGSTER_HOME", create=False)
    if not home.is_dir():
        return
    if not (home / "dagster.yaml").exists():
        yield warning(
            check,
            f"there is no {home / 'dagster.yaml'}: Dagster's own defaults hold",
            "copy dagster.yaml there, or deploy/dagster.yaml for PostgreSQL",
        )
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            runs, kept = instance.get_runs_count(), type(instance.run_storage).__name__
    except Exception as error:  # whatever a database or a file does to it
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        yield failed(
            "dagster storage",
            f"Dagster cannot open its storage: {reason}",
            f"look at {home / 'dagster.yaml'}, and whether its database runs",
        )
    else:
        yield ok("dagster storage", f"{runs} runs in {kept}")


def _writable(check: str, folder: Path, setting: str, *, create: bool = True) -> Finding:
    fix = f"create it and let user {os.geteuid()} write there, or set {setting} to another folder"
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return failed(check, f"{setting} {folder} is not writable: {error.strerror}", fix)
    return ok(check, f"{setting} {folder} is writable")


def _embedded_home(home: Path) -> Finding:
    """Several processes share it by locks, which some network file systems do not have."""
    check = "embedded personalize"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / "doctor.lock"):
            pass
        (home / "doctor.lock").unlink()
    except OSError as error:
        return failed(
            check,
            f"{home} takes no locks: {error.strerror}",
            "set BATCHREC_HOME to a folder on a disk of this machine",
        )
    catalog = home / "catalog.sqlite"
    if not catalog.exists():
        return ok(check, f"{home} takes locks; nothing is in it yet")
    try:
        with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
            ((said,),) = connection.execute("PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        said = str(error)
    if said != "ok":
        return failed(
            check,
            f"the catalogue {catalog} is damaged: {said}",
            f"move {home} away: the next run imports and trains anew",
        )
    return ok(check, f"{home} takes locks, and its catalogue is whole")


def _room(deployment: Deployment) -> Iterator[Finding]:
    """Of each disk once."""
    folders = {"BATCHREC_HOME": deployment.home, "temporary files": Path(tempfile.gettempdir())}
    if not deployment.storage.startswith("s3://"):
        folders["BATCHREC_STORAGE"] = Path(deployment.storage)
    if deployment.dagster_home:
        folders["DAGSTER_HOME"] = deployment.dagster_home
    seen = set()
    for what, folder in folders.items():
        there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(there).free
        said = f"{free / GB:,.1f} GB are free for {what} ({there})"
        fix = "make room there, or set it to a folder on a larger disk"
        if free < FULL:
            yield failed("disk", said, fix)
        elif free < NEARLY_FULL:
            yield warning("disk", said, fix)
        else:
            yield ok("disk", said)
