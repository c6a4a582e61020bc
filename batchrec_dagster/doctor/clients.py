"""boto3 clients that give up soon: a doctor does not wait the night out."""

from __future__ import annotations

from typing import Any

import boto3
from botocore.config import Config

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.resources.personalize import AWS

_QUICK = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=15)


def session(deployment: Deployment) -> boto3.Session:
    return boto3.Session(region_name=deployment.region, profile_name=deployment.profile)


def client(deployment: Deployment, service: str) -> Any:
    """By the deployment's profile, region and endpoint. Raises BotoCoreError."""
    endpoints = {"s3": deployment.s3_endpoint}
    if deployment.personalize != AWS:
        endpoints["personalize"] = deployment.personalize
    made: Any = session(deployment)  # Its types know no services by a name in a variable.
    return made.client(service, endpoint_url=endpoints.get(service), config=_QUICK)
