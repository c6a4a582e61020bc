"""boto3 clients with short timeouts for the checks, and calls that become findings if they fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.resources import AWS
from batchrec_dagster.doctor.findings import failed, unknown
from batchrec_dagster.storage import permissions

CHECK_NETWORK = "check the network and the region"
_SHORT_TIMEOUTS = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=15)


def make_session(deployment: Deployment) -> boto3.Session:
    """A session with the deployment's profile and region."""
    return boto3.Session(region_name=deployment.region, profile_name=deployment.profile)


def make_client(deployment: Deployment, service: str) -> Any:
    """A client with the deployment's profile, region and endpoint. Raises BotoCoreError."""
    endpoints = {"s3": deployment.s3_endpoint}
    if deployment.personalize != AWS:
        endpoints["personalize"] = deployment.personalize
    # The types of boto3 accept only literal names of services.
    session: Any = make_session(deployment)
    return session.client(service, endpoint_url=endpoints.get(service), config=_SHORT_TIMEOUTS)


def try_call(check: str, call: Callable[[], Any], action: str, resource: str) -> Any:
    """The result of the call, or a Finding of this check if the call fails.

    `action` is the permission that the call needs on `resource`.
    """
    try:
        return call()
    except ClientError as error:
        if permissions.is_denied(error):
            fix = f"allow these credentials {action} on {resource}"
            return unknown(check, "no permission to check this", fix)
        return failed(check, str(error), "fix what the message names")
    except BotoCoreError as error:
        return unknown(check, str(error), CHECK_NETWORK)
