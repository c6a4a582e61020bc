"""This machine: Dagster's home, the embedded Personalize's home, and the space on the disks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.dagster_home import check_dagster_home
from batchrec_dagster.doctor.embedded_personalize import check_embedded_home, check_embedded_quotas
from batchrec_dagster.doctor.findings import Finding, failed, ok, warning
from batchrec_dagster.doctor.folders import check_writable
from batchrec_dagster.local_personalize.api.client import Quotas

GB = 10**9
# Less free space than this is too little for a run.
FULL = 1 * GB
# Less free space than this is enough for a few nights of a large pipeline.
NEARLY_FULL = 5 * GB


def check_machine(deployment: Deployment) -> Iterator[Finding]:
    """Findings about the homes and the disks that the deployment uses."""
    yield from check_dagster_home(deployment.dagster_home, deployment.home / "dagster")
    yield check_writable("home", deployment.home, "BATCHREC_HOME")
    if deployment.embedded:
        catalog = deployment.home / "personalize" / "catalog.sqlite"
        finding = check_embedded_home(catalog)
        yield finding
        if finding.status == "ok" and catalog.exists():
            yield from check_embedded_quotas(catalog, Quotas.parse(deployment.quotas))
    yield from _check_free_space(deployment)


def _check_free_space(deployment: Deployment) -> Iterator[Finding]:
    """A finding for each disk that has one of the deployment's folders."""
    folders = {"BATCHREC_HOME": deployment.home, "temporary files": Path(tempfile.gettempdir())}
    if not deployment.storage.startswith("s3://"):
        folders["BATCHREC_STORAGE"] = Path(deployment.storage)
    if deployment.dagster_home:
        folders["DAGSTER_HOME"] = deployment.dagster_home
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
