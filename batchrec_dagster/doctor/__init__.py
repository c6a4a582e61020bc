"""Looks at a deployment before it has to work by night: each check alone, each with its fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from batchrec_dagster.deployment import Deployment, DeploymentError, misspelt
from batchrec_dagster.doctor.aws import aws_findings
from batchrec_dagster.doctor.findings import Finding, failed, ok
from batchrec_dagster.doctor.machine import machine_findings
from batchrec_dagster.doctor.storage import storage_findings

__all__ = ["Finding", "examine"]


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """All that can be found out, cheapest first; what cannot be looked at is `unknown`."""
    try:
        deployment = Deployment.from_environment(environment)
    except DeploymentError as error:
        yield failed("settings", str(error), "set it as it says, then ask again")
        return
    wrong = misspelt(environment)
    for name, meant in wrong.items():
        yield failed("settings", f"nothing reads {name}", f"{meant} is meant, it seems: rename it")
    if not wrong:
        yield ok("settings", f"storage {deployment.storage}, Personalize {deployment.personalize}")
    yield from machine_findings(deployment)
    yield from storage_findings(deployment)
    yield from aws_findings(deployment)
