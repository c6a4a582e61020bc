"""What a check reports, and boto3 clients with short timeouts for the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import boto3
from botocore.config import Config

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.resources import AWS

Status = Literal["ok", "warning", "unknown", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of one check, with the fix unless it is ok.

    warning: works now, but not for long; unknown: could not be checked, for example for lack of a
    permission.
    """

    check: str
    status: Status
    message: str
    fix: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check, "ok", message)


def warning(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "warning", message, fix)


def unknown(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "unknown", message, fix)


def failed(check: str, message: str, fix: str) -> Finding:
    return Finding(check, "failed", message, fix)


_QUICK = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=15)


def make_session(deployment: Deployment) -> boto3.Session:
    return boto3.Session(region_name=deployment.region, profile_name=deployment.profile)


def make_client(deployment: Deployment, service: str) -> Any:
    """A client with the deployment's profile, region and endpoint. Raises BotoCoreError."""
    endpoints = {"s3": deployment.s3_endpoint}
    if deployment.personalize != AWS:
        endpoints["personalize"] = deployment.personalize
    untyped: Any = make_session(deployment)  # Its types accept only literal service names.
    return untyped.client(service, endpoint_url=endpoints.get(service), config=_QUICK)
