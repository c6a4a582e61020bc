"""AWS: the credentials, Personalize, what its role may do in the bucket, and the quotas left."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.resources import AWS
from batchrec_dagster.doctor.findings import (
    Finding,
    failed,
    make_client,
    make_session,
    ok,
    unknown,
    warning,
)
from batchrec_dagster.storage import permissions
from batchrec_dagster.storage.object_store import split_uri

Document = Mapping[str, Any]
SERVICE = "personalize.amazonaws.com"
_NETWORK = "check the network and the region"


def check_aws(deployment: Deployment) -> Iterator[Finding]:
    if deployment.embedded:
        return
    on_aws = deployment.personalize == AWS
    if on_aws:
        yield _check_region(deployment)
        identity = _check_identity(deployment)
        yield identity
        if identity.status == "failed":
            return
    personalize = _check_personalize(deployment)
    yield personalize
    if on_aws:
        yield from _check_role(deployment)
        yield _check_bucket_policy(deployment)
        if personalize.status == "ok":
            yield from check_quotas(
                make_client(deployment, "personalize"), make_client(deployment, "service-quotas")
            )


def _check_region(deployment: Deployment) -> Finding:
    aws = make_session(deployment)
    region = aws.region_name
    regions = aws.get_available_regions("personalize", partition_name=permissions.partition(region))
    fix = f"set AWS_REGION to one of: {', '.join(regions) or 'another partition'}"
    if region is None:
        return failed("region", "no region is set", fix)
    if region not in regions:
        return failed("region", f"boto3 knows no Personalize in {region}", fix)
    return ok("region", region)


def _check_identity(deployment: Deployment) -> Finding:
    check = "identity"
    try:
        caller = make_client(deployment, "sts").get_caller_identity()
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        fix = permissions.credentials_trouble(code, message) or "check the credentials"
        return failed(check, f"AWS rejects these credentials: {code}", fix)
    except BotoCoreError as error:
        return failed(check, str(error), "set AWS_PROFILE, or give this machine a role")
    account = deployment.role_arn.split(":")[4]
    if caller["Account"] != account:
        return failed(
            check,
            f"these credentials are {caller['Arn']}, but BATCHREC_ROLE_ARN is in account {account}",
            "use a role in the same account: iam:PassRole does not cross accounts",
        )
    return ok(check, caller["Arn"])


def _check_personalize(deployment: Deployment) -> Finding:
    check = "personalize"
    where = "Amazon Personalize" if deployment.personalize == AWS else deployment.personalize
    try:
        make_client(deployment, "personalize").list_dataset_groups(maxResults=1)
    except ClientError as error:
        if permissions.is_denied(error):
            fix = permissions.lacking("personalize:ListDatasetGroups", "*", str(error))
            return failed(check, f"{where} denies access", fix)
        return failed(check, f"{where} answers: {error}", "fix what the message names")
    except BotoCoreError as error:
        fix = _NETWORK
        if deployment.personalize != AWS:
            fix = "start it (batchrec local-personalize), or fix BATCHREC_PERSONALIZE"
        return failed(check, f"cannot reach {where}: {error}", fix)
    return ok(check, f"{where} answers")


def _check_role(deployment: Deployment) -> Iterator[Finding]:
    role = deployment.role_arn
    check, name = "role", role.rpartition("/")[2]

    def get_role() -> Any:
        return make_client(deployment, "iam").get_role(RoleName=name)["Role"]

    answer = _try_call(check, get_role, "iam:GetRole", role)
    if isinstance(answer, Finding):
        missing = "NoSuchEntity" in answer.message
        fix = "create it (deploy/batchrec.yaml), or fix BATCHREC_ROLE_ARN"
        yield failed(check, f"there is no role {name}", fix) if missing else answer
        return
    trust = _parse_policy(answer["AssumeRolePolicyDocument"])
    if find_missing_permissions(trust, SERVICE, role.split(":")[4], [("sts:AssumeRole", "*")]):
        yield failed(
            check,
            f"{SERVICE} cannot assume {role}",
            f"allow sts:AssumeRole to the service {SERVICE} in its trust policy",
        )
    else:
        yield ok(check, f"{SERVICE} can assume {role}")
    yield _check_role_in_storage(deployment)


def _check_role_in_storage(deployment: Deployment) -> Finding:
    """What the role's policies let it do in the bucket, by IAM's policy simulator."""
    check, role = "role in storage", deployment.role_arn
    arn, objects = _get_storage_arns(deployment)

    def find_denied_actions(actions: list[str], resource: str) -> list[str]:
        answer = make_client(deployment, "iam").simulate_principal_policy(
            PolicySourceArn=role, ActionNames=actions, ResourceArns=[resource]
        )
        results = answer["EvaluationResults"]
        return [
            result["EvalActionName"] for result in results if result["EvalDecision"] != "allowed"
        ]

    def find_missing_actions() -> list[str]:
        return find_denied_actions(["s3:GetObject", "s3:PutObject"], objects) + find_denied_actions(
            ["s3:ListBucket"], arn
        )

    missing_actions = _try_call(check, find_missing_actions, "iam:SimulatePrincipalPolicy", role)
    if isinstance(missing_actions, Finding):
        return missing_actions
    if missing_actions:
        return failed(
            check,
            f"{role} lacks {', '.join(missing_actions)}",
            f"allow it {' and '.join(missing_actions)} on {arn} and"
            f" {deployment.storage.rstrip('/')}/*",
        )
    return ok(check, f"{role} can list, read and write {deployment.storage}")


def _get_storage_arns(deployment: Deployment) -> tuple[str, str]:
    """The ARNs of the bucket, and of an object such as a batch job writes."""
    bucket, prefix = split_uri(deployment.storage)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    # The partition: aws, aws-cn or aws-us-gov.
    arn = f"arn:{deployment.role_arn.split(':')[1]}:s3:::{bucket}"
    return arn, f"{arn}/{folder}doctor/curated/x"


def _check_bucket_policy(deployment: Deployment) -> Finding:
    check = "bucket policy"
    bucket, _ = split_uri(deployment.storage)
    arn, objects = _get_storage_arns(deployment)

    def get_policy() -> Any:
        return make_client(deployment, "s3").get_bucket_policy(Bucket=bucket)["Policy"]

    answer = _try_call(check, get_policy, "s3:GetBucketPolicy", arn)
    if isinstance(answer, Finding) and "NoSuchBucketPolicy" not in answer.message:
        return answer
    permissions_needed = [
        ("s3:ListBucket", arn),
        ("s3:GetObject", objects),
        ("s3:PutObject", objects),
    ]
    policy = {} if isinstance(answer, Finding) else _parse_policy(answer)
    account = deployment.role_arn.split(":")[4]
    missing = [
        action
        for action, _ in find_missing_permissions(policy, SERVICE, account, permissions_needed)
    ]
    if missing:
        return failed(
            check,
            f"the policy of {bucket} does not allow {SERVICE} {', '.join(missing)}",
            f"allow it {' and '.join(missing)} on {arn} and {deployment.storage.rstrip('/')}/*"
            " (deploy/batchrec.yaml contains such a policy)",
        )
    if doubtful_statements := find_conditional_denies(policy, SERVICE, permissions_needed):
        return warning(
            check,
            f"the policy of {bucket} denies under conditions that may hold for {SERVICE}:"
            f" {'; '.join(doubtful_statements)}",
            "check that they spare Personalize, for example with a condition BoolIfExists"
            " aws:PrincipalIsAWSService false",
        )
    return ok(check, f"{SERVICE} can list, read and write {deployment.storage}")


def _try_call(check: str, call: Callable[[], Any], action: str, resource: str) -> Any:
    """The result of the call, or a Finding if it fails; `action` is the permission it needs."""
    try:
        return call()
    except ClientError as error:
        if permissions.is_denied(error):
            fix = f"allow these credentials {action} on {resource}"
            return unknown(check, "no permission to check this", fix)
        return failed(check, str(error), "fix what the message names")
    except BotoCoreError as error:
        return unknown(check, str(error), _NETWORK)


def _parse_policy(policy: Any) -> Document:
    """The policy; boto3 decodes some, and returns others as JSON."""
    document: Document = json.loads(unquote(policy)) if isinstance(policy, str) else policy
    return document


# Developer guide, "Endpoints and quotas". Of each: the operation that lists it, its documented
# quota, its name in Service Quotas, and whether only unfinished ones count.
_QUOTAS = {
    "dataset groups": ("list_dataset_groups", 5, r"dataset groups$", False),
    "schemas": ("list_schemas", 500, r"schemas$", False),
    "imports": ("list_dataset_import_jobs", 5, r"import jobs$", True),
    "batch inferences": ("list_batch_inference_jobs", 5, r"batch inference jobs$", True),
}
_FINISHED = ("ACTIVE", "CREATE FAILED", "CREATE STOPPED")


def check_quotas(personalize: Any, quotas: Any) -> Iterator[Finding]:
    """One finding for each quota of Personalize that a pipeline can exhaust.

    personalize, quotas: boto3 clients of `personalize` and `service-quotas`.
    """
    quotas_by_name = _applied_quotas(quotas)
    for what, (operation, documented, name, only_unfinished) in _QUOTAS.items():
        check = f"quota of {what}"
        applied_quotas = (
            v for key, v in quotas_by_name.items() if re.search(name, key, re.IGNORECASE)
        )
        quota = next(applied_quotas, documented)
        action = "personalize:" + "".join(part.capitalize() for part in operation.split("_"))
        resources = _try_call(check, partial(_list_resources, personalize, operation), action, "*")
        if isinstance(resources, Finding):
            yield replace(resources, status="unknown")
            continue
        used = sum(
            not (only_unfinished and resource["status"] in _FINISHED) for resource in resources
        )
        message = f"{used} of {quota} {'in progress' if only_unfinished else 'used'}"
        if used < quota:
            yield ok(check, message)
        elif only_unfinished:
            yield warning(check, message, "nothing to do: runs wait until one finishes")
        else:
            fix = "delete what you no longer need (NAME_teardown), or ask AWS for a higher quota"
            yield warning(check, f"{message}: a new pipeline may find no room", fix)


def _list_resources(personalize: Any, operation: str) -> list[Mapping[str, Any]]:
    pages: dict[str, Any] = personalize.get_paginator(operation).paginate().build_full_result()
    (resources,) = pages.values()
    return list(resources)


def _applied_quotas(quotas: Any) -> dict[str, int]:
    """This account's quotas by name; empty if Service Quotas does not answer."""
    try:
        pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="personalize")
        return {
            quota["QuotaName"]: int(quota["Value"]) for page in pages for quota in page["Quotas"]
        }
    except (ClientError, BotoCoreError):
        return {}


_OPERATORS = ("StringEquals", "StringLike", "ArnEquals", "ArnLike")


def find_missing_permissions(
    document: Document, service: str, account: str, permissions_needed: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The wanted (action, resource) pairs that the policy does not allow the service."""
    return [pair for pair in permissions_needed if not _allows(document, service, account, *pair)]


def _allows(document: Document, service: str, account: str, action: str, resource: str) -> bool:
    matching = [
        statement
        for statement in _as_list(document.get("Statement"))
        if _names_service(statement.get("Principal"), service)
        and any(_matches(pattern, action) for pattern in _as_list(statement.get("Action")))
        # A trust policy names no resource.
        and any(_matches(pattern, resource) for pattern in _as_list(statement.get("Resource", "*")))
    ]
    is_denied = any(
        statement["Effect"] == "Deny" and not statement.get("Condition") for statement in matching
    )
    return not is_denied and any(
        statement["Effect"] == "Allow" and _condition_holds(statement.get("Condition", {}), account)
        for statement in matching
    )


# A Deny with one of these spares the requests of a service, which come over TLS.
_SPARES = {"aws:securetransport", "aws:principalisawsservice"}


def find_conditional_denies(
    document: Document, service: str, permissions_needed: Iterable[tuple[str, str]]
) -> list[str]:
    """The conditional statements that may deny the service a wanted (action, resource): the Sid
    and the keys of the condition."""
    return [
        f"{statement.get('Sid', 'a statement without Sid')} ({', '.join(sorted(keys))})"
        for statement in _as_list(document.get("Statement"))
        if statement["Effect"] == "Deny" and statement.get("Condition")
        for keys in [{key for each in statement["Condition"].values() for key in each}]
        if not _SPARES & {key.lower() for key in keys}
        and _names_service(statement.get("Principal"), service)
        and any(
            _matches(allowed_action, action) and _matches(other, resource)
            for action, resource in permissions_needed
            for allowed_action in _as_list(statement.get("Action"))
            for other in _as_list(statement.get("Resource", "*"))
        )
    ]


def _names_service(principal: Any, service: str) -> bool:
    if principal == "*":
        return True
    return isinstance(principal, Mapping) and (
        service in _as_list(principal.get("Service")) or "*" in _as_list(principal.get("AWS"))
    )


def _condition_holds(condition: Mapping[str, Mapping[str, Any]], account: str) -> bool:
    """Whether it holds for the service's requests on behalf of this account."""
    return all(
        operator in _OPERATORS
        and any(_names_account(key, value, account) for value in _as_list(values))
        for operator, keys in condition.items()
        for key, values in keys.items()
    )


def _names_account(key: str, value: str, account: str) -> bool:
    if key.lower() == "aws:sourceaccount":
        return _matches(value, account)
    if key.lower() == "aws:sourcearn":
        return value == "*" or _matches("".join(value.split(":")[4:5]), account)
    return False


def _matches(pattern: str, text: str) -> bool:
    escaped = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, text, re.IGNORECASE) is not None


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
