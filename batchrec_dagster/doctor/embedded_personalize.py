"""The embedded Personalize's home: its file locks, its catalogue, and the quotas in use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE, Quotas
from batchrec_dagster.storage.durable import exclusive


def check_embedded_home(catalog: Path) -> Finding:
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


def check_embedded_quotas(catalog: Path, quotas: Quotas) -> Iterator[Finding]:
    """What is used of the quotas: in all, or in the dataset group that has most."""
    with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
        resource_counts = dict(
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
        message = f"{resource_counts.get(kind, 0)} of {quota} used"
        if resource_counts.get(kind, 0) < quota:
            yield ok(f"quota of {what}", message)
        else:
            fix = (
                "delete what you no longer need (NAME_teardown), or set"
                f" {QUOTAS_VARIABLE}={name}={2 * quota or 1}"
            )
            yield warning(f"quota of {what}", f"{message}: there is no room for a new one", fix)
