"""Checks of Dagster's home: its folder, its `dagster.yaml`, and the storage named there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import ArgumentError

from batchrec_dagster.cli.readiness.folders import check_writable
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok, warning
from batchrec_dagster.storage.durable import copy_permissions, exclusive_lock


def check_dagster_home(home: Path | None, default: Path) -> Iterator[Readiness]:
    """Yield findings about Dagster's home.

    home: the home; None if DAGSTER_HOME is not set.
    default: the home that batchrec's commands use if DAGSTER_HOME is not set.
    """
    check = "dagster home"
    if home is None:
        yield warning(
            check,
            f"DAGSTER_HOME is not set: batchrec's commands use {default}, but Dagster's own"
            " commands keep no record of their runs",
            f"set DAGSTER_HOME={default}, or another folder that contains a dagster.yaml",
        )
        home = default
        if not home.is_dir():
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
        with exclusive_lock(home), copy_permissions(home), _set_dagster_home(home):
            opened_instance = dg.DagsterInstance.from_config(str(home))
        with opened_instance as instance:
            runs = instance.get_runs_count()
            storage = type(instance.run_storage).__name__
            monitors_runs = instance.run_monitoring_enabled
    # Database drivers and broken files can raise anything.
    except Exception as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        if isinstance(error.__cause__ or error, (ValueError, ArgumentError)):
            # SQLAlchemy's message repeats part of an unreadable URL, perhaps the password.
            reason = "the URL or a port of its database cannot be read; write % codes in passwords"
        yield failed(
            "dagster storage",
            f"Dagster cannot open its storage: {reason}",
            f"check {home / 'dagster.yaml'}, and that its database is running",
        )
    else:
        yield ok("dagster storage", f"{runs} runs in {storage}")
        if home == default:
            yield from _check_settings(home / "dagster.yaml")
        if not monitors_runs:
            yield warning(
                "dagster run monitoring",
                "a run whose process was killed stays started forever, and sends no alert",
                f"add to {home / 'dagster.yaml'}: run_monitoring: {{enabled: true}}",
            )


def _check_settings(copy: Path) -> Iterator[Readiness]:
    """Yield a finding on whether the home's dagster.yaml is equal to the project's.

    batchrec's first command copied the project's file into the home. Later commands keep the copy,
    which may have been edited.
    """
    original = Path(copy.name).absolute()
    if not copy.exists() or not original.is_file():
        return
    check = "dagster settings"
    if copy.read_bytes() == original.read_bytes():
        yield ok(check, f"{copy} is a copy of {original}")
        return
    yield warning(
        check,
        f"{original} differs from its copy {copy}, and Dagster reads only the copy",
        f"to use the project's, run: cp {original} {copy}. If you edited the copy, take your edits"
        " over into the project's first",
    )


@contextmanager
def _set_dagster_home(home: Path) -> Iterator[None]:
    """Set DAGSTER_HOME to this folder during the block: dagster.yaml may use the variable."""
    previous_home = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        yield
    finally:
        if previous_home is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = previous_home
