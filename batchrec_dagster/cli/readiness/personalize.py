"""Checks of Personalize: whether it answers and, on AWS, the region and the credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
)

from batchrec_dagster.cli.readiness.storage import SHORT_TIMEOUTS
from batchrec_dagster.config.environment import AWS, Environment
from batchrec_dagster.errors import UserError
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.permissions import find_partition


def check_personalize(environment: Environment, storage: Storage) -> Iterator[Readiness]:
    """Yield findings about Personalize, based on one request to it.

    Yields nothing for the embedded engine.
    """
    if environment.embedded:
        return
    on_aws = environment.personalize == AWS
    endpoint = None if on_aws else environment.personalize
    try:
        personalize = storage.client("personalize", endpoint, SHORT_TIMEOUTS)
        sts = storage.client("sts", config=SHORT_TIMEOUTS)
    except UserError as error:
        yield failed("personalize", str(error), "set what the message names")
        return
    if on_aws:
        yield _check_region(personalize.meta.region_name)
        identity = _check_identity(sts, environment.role_arn)
        yield identity
        if identity.status == "failed":
            return
    yield _check_answer(personalize, environment)


def _check_region(region: str) -> Readiness:
    regions = boto3.Session().get_available_regions(
        "personalize", partition_name=find_partition(region)
    )
    if region in regions:
        return ok("region", region)
    return failed(
        "region",
        f"boto3 knows no Personalize in {region}",
        f"set AWS_REGION to one of: {', '.join(regions) or 'another partition'}",
    )


def _check_identity(sts: Any, role_arn: str) -> Readiness:
    """Check the caller's identity, and that Personalize's role belongs to the same account."""
    check = "identity"
    try:
        caller = sts.get_caller_identity()
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        return failed(check, f"AWS rejects these credentials: {code}", message)
    except (EndpointConnectionError, HTTPClientError) as error:
        return failed(
            check,
            f"cannot reach AWS STS, which says whose the credentials are: {error}",
            "let this machine reach it: check the network, the proxy, or the VPC's endpoint of STS",
        )
    except BotoCoreError as error:
        return failed(check, str(error), "check the credentials")
    account = role_arn.split(":")[4]
    if caller["Account"] != account:
        return failed(
            check,
            f"these credentials are {caller['Arn']}, but BATCHREC_ROLE_ARN is in account {account}",
            "use a role in the same account: iam:PassRole does not cross accounts",
        )
    return ok(check, caller["Arn"])


def _check_answer(personalize: Any, environment: Environment) -> Readiness:
    check, name, fix = "personalize", "Amazon Personalize", "check the network and the region"
    if environment.personalize != AWS:
        name = environment.personalize
        fix = "start it (batchrec local-personalize), or fix BATCHREC_PERSONALIZE"
    try:
        personalize.list_dataset_groups(maxResults=1)
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        return failed(check, f"{name} refuses to list dataset groups: {code}", message)
    except BotoCoreError as error:
        return failed(check, f"cannot reach {name}: {error}", fix)
    return ok(check, f"{name} answers")
