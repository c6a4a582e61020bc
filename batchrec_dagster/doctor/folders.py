"""Whether this user can write into a folder, and nobody else can read it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.storage import durable


def check_writable(check: str, folder: Path, setting: str, *, create: bool = True) -> Finding:
    """Whether the folder can be written and is closed to other users.

    `setting` is the environment variable that names the folder. `create` says whether to make the
    folder if there is none.
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
