"""The embedded Personalize's home: its file locks, its catalogue, and the quotas in use."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE, Quotas
from batchrec_dagster.storage.durable import exclusive_lock

# A row for each quota: what it limits, in words, the kind of that resource in the catalogue, and
# the field of `Quotas`.
QUOTAS = (
    ("dataset groups", "DatasetGroup", "dataset_groups"),
    ("schemas", "Schema", "schemas"),
    ("solutions in a dataset group", "Solution", "solutions_per_group"),
    ("filters in a dataset group", "Filter", "filters_per_group"),
)


def check_embedded_home(catalog: Path) -> Finding:
    """Whether the home supports file locks, and whether its catalogue is intact.

    Processes share the home by file locks, which some network file systems do not have.
    """
    check = "embedded personalize"
    home = catalog.parent
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive_lock(home / "doctor.lock"):
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
    """A finding for each quota, about the resources in use.

    Of quotas that hold for each dataset group, the group with most resources counts.
    """
    with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
        resource_counts = dict(
            connection.execute(
                "SELECT kind, MAX(number) FROM (SELECT kind, COUNT(*) AS number FROM resources"
                " GROUP BY kind, parent) GROUP BY kind"
            )
        )
    for resources, kind, name in QUOTAS:
        quota: int = getattr(quotas, name)
        used = resource_counts.get(kind, 0)
        check = f"quota of {resources}"
        message = f"{used} of {quota} used"
        if used < quota:
            yield ok(check, message)
        else:
            fix = (
                "delete what you no longer need (NAME_teardown), or set"
                f" {QUOTAS_VARIABLE}={name}={2 * quota or 1}"
            )
            yield warning(check, f"{message}: there is no room for a new one", fix)
