"""Dagster's home: its folder, its `dagster.yaml`, and the storage that this names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import ArgumentError

from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.doctor.folders import check_writable
from batchrec_dagster.storage.durable import exclusive


def check_dagster_home(home: Path | None, default: Path) -> Iterator[Finding]:
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
    yield check_writable(check, home, "DAGSTER_HOME", create=False)
    if not home.is_dir():
        return
    if not (home / "dagster.yaml").exists():
        yield warning(
            check,
            f"there is no {home / 'dagster.yaml'}: Dagster uses its defaults",
            "copy dagster.yaml there, or deploy/dagster.yaml for PostgreSQL",
        )
    try:
        with exclusive(home), _set_dagster_home(home):
            opened_instance = dg.DagsterInstance.from_config(str(home))
        with opened_instance as instance:
            runs, storage = instance.get_runs_count(), type(instance.run_storage).__name__
    except Exception as error:  # Database drivers and broken files raise anything.
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        if isinstance(error.__cause__ or error, (ValueError, ArgumentError)):
            # SQLAlchemy's message repeats a part of a URL that it cannot read.
            reason = "the URL or a port of its database cannot be read; write % codes in passwords"
        yield failed(
            "dagster storage",
            f"Dagster cannot open its storage: {reason}",
            f"check {home / 'dagster.yaml'}, and that its database is running",
        )
    else:
        yield ok("dagster storage", f"{runs} runs in {storage}")


@contextmanager
def _set_dagster_home(home: Path) -> Iterator[None]:
    """DAGSTER_HOME is this folder, as batchrec's commands have it: its dagster.yaml may say so."""
    previous_home = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        yield
    finally:
        if previous_home is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = previous_home
