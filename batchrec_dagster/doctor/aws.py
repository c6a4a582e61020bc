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
from batchrec_dagster.doctor.findings import Finding, client, failed, ok, session, unknown, warning
from batchrec_dagster.storage import permissions
from batchrec_dagster.storage.object_store import split_uri

Document = Mapping[str, Any]
SERVICE = "personalize.amazonaws.com"
_NETWORK = "check the network and the region"


def aws_findings(deployment: Deployment) -> Iterator[Finding]:
    if deployment.embedded:
        return
    on_aws = deployment.personalize == AWS
    if on_aws:
        yield _region(deployment)
        who = _identity(deployment)
        yield who
        if who.status == "failed":
            return
    personalize = _personalize(deployment)
    yield personalize
    if on_aws:
        yield from _role(deployment)
        yield _bucket_policy(deployment)
        if personalize.status == "ok":
            yield from quota_findings(
                client(deployment, "personalize"), client(deployment, "service-quotas")
            )


def _region(deployment: Deployment) -> Finding:
    aws = session(deployment)
    region = aws.region_name
    known = aws.get_available_regions("personalize", partition_name=permissions.partition(region))
    fix = f"set AWS_REGION to one of: {', '.join(known) or 'another partition'}"
    if region is None:
        return failed("region", "no region is set", fix)
    if region not in known:
        return failed("region", f"boto3 knows no Personalize in {region}", fix)
    return ok("region", region)


def _identity(deployment: Deployment) -> Finding:
    check = "identity"
    try:
        found = client(deployment, "sts").get_caller_identity()
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        fix = permissions.credentials_trouble(code, message) or "check the credentials"
        return failed(check, f"AWS rejects these credentials: {code}", fix)
    except BotoCoreError as error:
        return failed(check, str(error), "set AWS_PROFILE, or give this machine a role")
    account = deployment.role_arn.split(":")[4]
    if found["Account"] != account:
        return failed(
            check,
            f"these credentials are {found['Arn']}, but BATCHREC_ROLE_ARN is in account {account}",
            "use a role in the same account: iam:PassRole does not cross accounts",
        )
    return ok(check, found["Arn"])


def _personalize(deployment: Deployment) -> Finding:
    check = "personalize"
    where = "Amazon Personalize" if deployment.personalize == AWS else deployment.personalize
    try:
        client(deployment, "personalize").list_dataset_groups(maxResults=1)
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


def _role(deployment: Deployment) -> Iterator[Finding]:
    role = deployment.role_arn
    check, name = "role", role.rpartition("/")[2]

    def call() -> Any:
        return client(deployment, "iam").get_role(RoleName=name)["Role"]

    found = _try(check, call, "iam:GetRole", role)
    if isinstance(found, Finding):
        missing = "NoSuchEntity" in found.message
        fix = "create it (deploy/batchrec.yaml), or fix BATCHREC_ROLE_ARN"
        yield failed(check, f"there is no role {name}", fix) if missing else found
        return
    trust = _document(found["AssumeRolePolicyDocument"])
    if lacks(trust, SERVICE, role.split(":")[4], [("sts:AssumeRole", "*")]):
        yield failed(
            check,
            f"{SERVICE} cannot assume {role}",
            f"allow sts:AssumeRole to the service {SERVICE} in its trust policy",
        )
    else:
        yield ok(check, f"{SERVICE} can assume {role}")
    yield _role_in_storage(deployment)


def _role_in_storage(deployment: Deployment) -> Finding:
    """What the role's policies let it do in the bucket, by IAM's policy simulator."""
    check, role = "role in storage", deployment.role_arn
    arn, objects = _resources(deployment)

    def denied(actions: list[str], resource: str) -> list[str]:
        answer = client(deployment, "iam").simulate_principal_policy(
            PolicySourceArn=role, ActionNames=actions, ResourceArns=[resource]
        )
        results = answer["EvaluationResults"]
        return [each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"]

    def call() -> list[str]:
        return denied(["s3:GetObject", "s3:PutObject"], objects) + denied(["s3:ListBucket"], arn)

    missing = _try(check, call, "iam:SimulatePrincipalPolicy", role)
    if isinstance(missing, Finding):
        return missing
    if missing:
        return failed(
            check,
            f"{role} lacks {', '.join(missing)}",
            f"allow it {' and '.join(missing)} on {arn} and {deployment.storage.rstrip('/')}/*",
        )
    return ok(check, f"{role} can list, read and write {deployment.storage}")


def _resources(deployment: Deployment) -> tuple[str, str]:
    """The ARNs of the bucket, and of an object such as a batch job writes."""
    bucket, prefix = split_uri(deployment.storage)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    # The partition: aws, aws-cn or aws-us-gov.
    arn = f"arn:{deployment.role_arn.split(':')[1]}:s3:::{bucket}"
    return arn, f"{arn}/{folder}doctor/curated/x"


def _bucket_policy(deployment: Deployment) -> Finding:
    check = "bucket policy"
    bucket, _ = split_uri(deployment.storage)
    arn, objects = _resources(deployment)

    def call() -> Any:
        return client(deployment, "s3").get_bucket_policy(Bucket=bucket)["Policy"]

    found = _try(check, call, "s3:GetBucketPolicy", arn)
    if isinstance(found, Finding) and "NoSuchBucketPolicy" not in found.message:
        return found
    wanted = [("s3:ListBucket", arn), ("s3:GetObject", objects), ("s3:PutObject", objects)]
    policy = {} if isinstance(found, Finding) else _document(found)
    account = deployment.role_arn.split(":")[4]
    missing = [action for action, _ in lacks(policy, SERVICE, account, wanted)]
    if missing:
        return failed(
            check,
            f"the policy of {bucket} does not allow {SERVICE} {', '.join(missing)}",
            f"allow it {' and '.join(missing)} on {arn} and {deployment.storage.rstrip('/')}/*"
            " (deploy/batchrec.yaml contains such a policy)",
        )
    if doubtful := conditional_denies(policy, SERVICE, wanted):
        return warning(
            check,
            f"the policy of {bucket} denies under conditions that may hold for {SERVICE}:"
            f" {'; '.join(doubtful)}",
            "check that they spare Personalize, for example with a condition BoolIfExists"
            " aws:PrincipalIsAWSService false",
        )
    return ok(check, f"{SERVICE} can list, read and write {deployment.storage}")


def _try(check: str, call: Callable[[], Any], action: str, resource: str) -> Any:
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


def _document(policy: Any) -> Document:
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


def quota_findings(personalize: Any, quotas: Any) -> Iterator[Finding]:
    """One finding for each quota of Personalize that a pipeline can exhaust.

    personalize, quotas: boto3 clients of `personalize` and `service-quotas`.
    """
    applied = _applied_quotas(quotas)
    for what, (operation, documented, name, unfinished) in _QUOTAS.items():
        check = f"quota of {what}"
        matching = (v for key, v in applied.items() if re.search(name, key, re.IGNORECASE))
        quota = next(matching, documented)
        action = "personalize:" + "".join(part.capitalize() for part in operation.split("_"))
        listed = _try(check, partial(_list, personalize, operation), action, "*")
        if isinstance(listed, Finding):
            yield replace(listed, status="unknown")
            continue
        used = sum(not (unfinished and each["status"] in _FINISHED) for each in listed)
        message = f"{used} of {quota} {'in progress' if unfinished else 'used'}"
        if used < quota:
            yield ok(check, message)
        elif unfinished:
            yield warning(check, message, "nothing to do: runs wait until one finishes")
        else:
            fix = "delete what you no longer need (NAME_teardown), or ask AWS for a higher quota"
            yield warning(check, f"{message}: a new pipeline may find no room", fix)


def _list(personalize: Any, operation: str) -> list[Mapping[str, Any]]:
    pages: dict[str, Any] = personalize.get_paginator(operation).paginate().build_full_result()
    (listed,) = pages.values()
    return list(listed)


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


def lacks(
    document: Document, service: str, account: str, wanted: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The wanted (action, resource) pairs that the policy does not allow the service."""
    return [pair for pair in wanted if not _allows(document, service, account, *pair)]


def _allows(document: Document, service: str, account: str, action: str, resource: str) -> bool:
    matching = [
        statement
        for statement in _many(document.get("Statement"))
        if _principal(statement.get("Principal"), service)
        and any(_matches(each, action) for each in _many(statement.get("Action")))
        # A trust policy names no resource.
        and any(_matches(each, resource) for each in _many(statement.get("Resource", "*")))
    ]
    denied = any(each["Effect"] == "Deny" and not each.get("Condition") for each in matching)
    return not denied and any(
        each["Effect"] == "Allow" and _holds(each.get("Condition", {}), account)
        for each in matching
    )


# A Deny with one of these spares the requests of a service, which come over TLS.
_SPARES = {"aws:securetransport", "aws:principalisawsservice"}


def conditional_denies(
    document: Document, service: str, wanted: Iterable[tuple[str, str]]
) -> list[str]:
    """The conditional statements that may deny the service a wanted (action, resource): the Sid
    and the keys of the condition."""
    return [
        f"{statement.get('Sid', 'a statement without Sid')} ({', '.join(sorted(keys))})"
        for statement in _many(document.get("Statement"))
        if statement["Effect"] == "Deny" and statement.get("Condition")
        for keys in [{key for each in statement["Condition"].values() for key in each}]
        if not _SPARES & {key.lower() for key in keys}
        and _principal(statement.get("Principal"), service)
        and any(
            _matches(one, action) and _matches(other, resource)
            for action, resource in wanted
            for one in _many(statement.get("Action"))
            for other in _many(statement.get("Resource", "*"))
        )
    ]


def _principal(principal: Any, service: str) -> bool:
    if principal == "*":
        return True
    return isinstance(principal, Mapping) and (
        service in _many(principal.get("Service")) or "*" in _many(principal.get("AWS"))
    )


def _holds(condition: Mapping[str, Mapping[str, Any]], account: str) -> bool:
    """Whether it holds for the service's requests on behalf of this account."""
    return all(
        operator in _OPERATORS
        and any(_names_account(key, value, account) for value in _many(values))
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


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
