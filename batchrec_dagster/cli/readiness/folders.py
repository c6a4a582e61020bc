"""Checks of folders: this user can write, other users cannot read, and the disk has room."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchrec_dagster.config.environment import Environment
from batchrec_dagster.preparation.sources.limits import GB
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok, warning
from batchrec_dagster.storage import durable

# Less free space than this is too little for a run.
FULL = 1 * GB
# Less free space than this lasts for only a few nights of a large pipeline.
NEARLY_FULL = 5 * GB


def check_writable(check: str, folder: Path, setting: str, *, create: bool = True) -> Readiness:
    """Check that the folder is writable, and closed to other users.

    setting: the environment variable that names the folder.
    create: whether to make the folder if it does not exist.
    """
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


def check_free_space(environment: Environment) -> Iterator[Readiness]:
    """Yield a finding for each disk that has one of the deployment's folders."""
    folders = {"BATCHREC_HOME": environment.home, "temporary files": Path(tempfile.gettempdir())}
    if not environment.storage.startswith("s3://"):
        folders["BATCHREC_STORAGE"] = Path(environment.storage)
    if environment.dagster_home:
        folders["DAGSTER_HOME"] = environment.dagster_home
    devices = set()
    for purpose, folder in folders.items():
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        device = existing.stat().st_dev
        if device in devices:
            continue
        devices.add(device)
        free = shutil.disk_usage(existing).free
        message = f"{free / GB:,.1f} GB free for {purpose} ({existing})"
        fix = "free some space, or use a folder on a larger disk"
        if free < FULL:
            yield failed("disk", message, fix)
        elif free < NEARLY_FULL:
            yield warning("disk", message, fix)
        else:
            yield ok("disk", message)
