"""This machine: Dagster's home, the home of the embedded Personalize, free disk space."""

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
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE, Quotas
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive

GB = 10**9
# FULL: too little for a run; NEARLY_FULL: a few nights of a large pipeline.
FULL, NEARLY_FULL = 1 * GB, 5 * GB


def machine_findings(deployment: Deployment) -> Iterator[Finding]:
    yield from _dagster_home(deployment.dagster_home, deployment.home / "dagster")
    yield _writable("home", deployment.home, "BATCHREC_HOME")
    if deployment.embedded:
        catalog = deployment.home / "personalize" / "catalog.sqlite"
        intact = _embedded_home(catalog)
        yield intact
        if intact.status == "ok" and catalog.exists():
            yield from _embedded_quotas(catalog, Quotas.parse(deployment.quotas))
    yield from _free_space(deployment)


def _dagster_home(home: Path | None, default: Path) -> Iterator[Finding]:
    check = "dagster home"
    if home is None:
        yield warning(
            check,
            f"DAGSTER_HOME is not set: batchrec's commands use {default}, but Dagster's own forget"
            " their runs",
            f"set DAGSTER_HOME={default}, or another folder that contains a dagster.yaml",
        )
        if not (home := default).is_dir():
            return
    yield _writable(check, home, "DAGSTER_HOME", create=False)
    if not home.is_dir():
        return
    if not (home / "dagster.yaml").exists():
        yield warning(
            check,
            f"there is no {home / 'dagster.yaml'}: Dagster uses its defaults",
            "copy dagster.yaml there, or deploy/dagster.yaml for PostgreSQL",
        )
    try:
        with exclusive(home):
            opened = dg.DagsterInstance.from_config(str(home))
        with opened as instance:
            runs, storage = instance.get_runs_count(), type(instance.run_storage).__name__
    except Exception as error:  # Database drivers and broken files raise anything.
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        yield failed(
            "dagster storage",
            f"Dagster cannot open its storage: {reason}",
            f"check {home / 'dagster.yaml'}, and that its database is running",
        )
    else:
        yield ok("dagster storage", f"{runs} runs in {storage}")


def _writable(check: str, folder: Path, setting: str, *, create: bool = True) -> Finding:
    fix = f"create it and let user {os.geteuid()} write there, or set {setting} to another folder"
    try:
        if create:
            durable.make_folders(folder, 0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return failed(check, f"{setting} {folder} is not writable: {error.strerror}", fix)
    if folder.stat().st_mode & 0o007:
        return warning(
            check,
            f"{setting} {folder} is writable, and open to every user of this machine",
            f"chmod 700 {folder}; to share it with its group alone: chmod 770",
        )
    return ok(check, f"{setting} {folder} is writable")


def _embedded_home(catalog: Path) -> Finding:
    """Check the locks by which processes share it: some network file systems have none."""
    check, home = "embedded personalize", catalog.parent
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / "doctor.lock"):
            pass
        (home / "doctor.lock").unlink()
    except OSError as error:
        return failed(
            check,
            f"{home} does not support file locks: {error.strerror}",
            "set BATCHREC_HOME to a folder on a local disk",
        )
    if not catalog.exists():
        return ok(check, f"{home} supports file locks and is still empty")
    try:
        with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
            ((result,),) = connection.execute("PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        return failed(
            check,
            f"the catalogue {catalog} is damaged: {result}",
            f"move {home} away: the next run imports and trains again",
        )
    return ok(check, f"{home} supports file locks, and its catalogue is intact")


def _embedded_quotas(catalog: Path, quotas: Quotas) -> Iterator[Finding]:
    """What is used of the quotas: in all, or in the dataset group that has most."""
    with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
        used = dict(
            connection.execute(
                "SELECT kind, MAX(number) FROM (SELECT kind, COUNT(*) AS number FROM resources"
                " GROUP BY kind, parent) GROUP BY kind"
            )
        )
    for what, kind, name in (
        ("dataset groups", "DatasetGroup", "dataset_groups"),
        ("schemas", "Schema", "schemas"),
        ("solutions in a dataset group", "Solution", "solutions_per_group"),
        ("filters in a dataset group", "Filter", "filters_per_group"),
    ):
        quota: int = getattr(quotas, name)
        message = f"{used.get(kind, 0)} of {quota} used"
        if used.get(kind, 0) < quota:
            yield ok(f"quota of {what}", message)
        else:
            fix = (
                "delete what you no longer need (NAME_teardown), or set"
                f" {QUOTAS_VARIABLE}={name}={2 * quota or 1}"
            )
            yield warning(f"quota of {what}", f"{message}: there is no room for a new one", fix)


def _free_space(deployment: Deployment) -> Iterator[Finding]:
    """One finding for each disk."""
    folders = {"BATCHREC_HOME": deployment.home, "temporary files": Path(tempfile.gettempdir())}
    if not deployment.storage.startswith("s3://"):
        folders["BATCHREC_STORAGE"] = Path(deployment.storage)
    if deployment.dagster_home:
        folders["DAGSTER_HOME"] = deployment.dagster_home
    seen = set()
    for purpose, folder in folders.items():
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        device = existing.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(existing).free
        message = f"{free / GB:,.1f} GB free for {purpose} ({existing})"
        fix = "free some space, or use a folder on a larger disk"
        if free < FULL:
            yield failed("disk", message, fix)
        elif free < NEARLY_FULL:
            yield warning("disk", message, fix)
        else:
            yield ok("disk", message)
