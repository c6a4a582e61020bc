"""Amazon Personalize, and what it may do in the bucket."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.findings import Finding, client, failed, ok, session, unknown
from batchrec_dagster.doctor.quotas import quota_findings
from batchrec_dagster.personalize.permissions import credentials_trouble, is_denied, lacking
from batchrec_dagster.pipeline.resources import AWS
from batchrec_dagster.storage.object_store import split_uri

Document = Mapping[str, Any]
_OPERATORS = ("StringEquals", "StringLike", "ArnEquals", "ArnLike")


def lacks(
    document: Document, service: str, account: str, wanted: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The wanted pairs of action and resource that it does not allow the service."""
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


def _principal(principal: Any, service: str) -> bool:
    if principal == "*":
        return True
    return isinstance(principal, Mapping) and (
        service in _many(principal.get("Service")) or "*" in _many(principal.get("AWS"))
    )


def _holds(condition: Mapping[str, Mapping[str, Any]], account: str) -> bool:
    """For a request that the service makes for a resource of this account."""
    return all(
        operator in _OPERATORS and any(_is_of(key, value, account) for value in _many(values))
        for operator, keys in condition.items()
        for key, values in keys.items()
    )


def _is_of(key: str, value: str, account: str) -> bool:
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


SERVICE = "personalize.amazonaws.com"


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
    reached = _personalize(deployment)
    yield reached
    if on_aws:
        yield from _role(deployment)
        yield _bucket_policy(deployment)
        if reached.status == "ok":
            yield from quota_findings(client(deployment, "personalize"), _quotas(deployment))


def _region(deployment: Deployment) -> Finding:
    here = session(deployment)
    region, known = here.region_name, here.get_available_regions("personalize")
    fix = f"set AWS_REGION to one of: {', '.join(known)}"
    if region is None:
        return failed("region", "no region is set", fix)
    if region not in known:
        return failed("region", f"there is no Personalize in {region}, as far as is known", fix)
    return ok("region", region)


def _identity(deployment: Deployment) -> Finding:
    check = "identity"
    try:
        found = client(deployment, "sts").get_caller_identity()
    except ClientError as error:
        told = error.response["Error"]
        fix = credentials_trouble(told["Code"], told["Message"]) or "look at the credentials"
        return failed(check, f"AWS does not know these credentials: {told['Code']}", fix)
    except BotoCoreError as error:
        return failed(check, str(error), "set AWS_PROFILE, or give this machine a role")
    account = deployment.role_arn.split(":")[4]
    if found["Account"] != account:
        return failed(
            check,
            f"this is {found['Arn']}, but BATCHREC_ROLE_ARN is of account {account}",
            "use a role of the same account: one cannot hand on another's",
        )
    return ok(check, found["Arn"])


def _personalize(deployment: Deployment) -> Finding:
    check = "personalize"
    where = "Amazon Personalize" if deployment.personalize == AWS else deployment.personalize
    try:
        client(deployment, "personalize").list_dataset_groups(maxResults=1)
    except ClientError as error:
        if is_denied(error):
            fix = lacking("personalize:ListDatasetGroups", "*", str(error))
            return failed(check, f"{where} refuses", fix)
        return failed(check, f"{where} answers: {error}", "look at what it says")
    except BotoCoreError as error:
        fix = "look at the network and the region"
        if deployment.personalize != AWS:
            fix = "start it (batchrec local-personalize), or fix BATCHREC_PERSONALIZE"
        return failed(check, f"{where} was not reached: {error}", fix)
    return ok(check, f"{where} answers")


def _role(deployment: Deployment) -> Iterator[Finding]:
    role = deployment.role_arn
    check, name = "role", role.rpartition("/")[2]

    def look() -> Any:
        return client(deployment, "iam").get_role(RoleName=name)["Role"]

    found = _looked(check, look, "iam:GetRole", role)
    if isinstance(found, Finding):
        missing = "NoSuchEntity" in found.message
        fix = "create it (deploy/batchrec.yaml), or fix BATCHREC_ROLE_ARN"
        yield failed(check, f"there is no role {name}", fix) if missing else found
        return
    trust = _document(found["AssumeRolePolicyDocument"])
    if lacks(trust, SERVICE, role.split(":")[4], [("sts:AssumeRole", "*")]):
        yield failed(
            check,
            f"{SERVICE} may not assume {role}",
            f"let its trust policy allow sts:AssumeRole to the service {SERVICE}",
        )
    else:
        yield ok(check, f"{SERVICE} may assume {role}")
    yield _role_in_storage(deployment)


def _role_in_storage(deployment: Deployment) -> Finding:
    """What the role's policies let it do in the bucket, as IAM works it out."""
    check, role = "role in storage", deployment.role_arn
    arn, objects = _places(deployment)

    def may(actions: list[str], resource: str) -> list[str]:
        answer = client(deployment, "iam").simulate_principal_policy(
            PolicySourceArn=role, ActionNames=actions, ResourceArns=[resource]
        )
        results = answer["EvaluationResults"]
        return [each["EvalActionName"] for each in results if each["EvalDecision"] != "allowed"]

    def look() -> list[str]:
        return may(["s3:GetObject", "s3:PutObject"], objects) + may(["s3:ListBucket"], arn)

    missing = _looked(check, look, "iam:SimulatePrincipalPolicy", role)
    if isinstance(missing, Finding):
        return missing
    if missing:
        return failed(
            check,
            f"{role} may not {', '.join(missing)}",
            f"allow it {' and '.join(missing)} on {arn} and {deployment.storage.rstrip('/')}/*",
        )
    return ok(check, f"{role} may list, read and write {deployment.storage}")


def _places(deployment: Deployment) -> tuple[str, str]:
    """The bucket, and an object that a batch job writes, as policies name them."""
    bucket, prefix = split_uri(deployment.storage)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    return f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{folder}doctor/curated/x"


def _bucket_policy(deployment: Deployment) -> Finding:
    check = "bucket policy"
    bucket, _ = split_uri(deployment.storage)
    arn, objects = _places(deployment)

    def look() -> Any:
        return client(deployment, "s3").get_bucket_policy(Bucket=bucket)["Policy"]

    found = _looked(check, look, "s3:GetBucketPolicy", arn)
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
            " (deploy/batchrec.yaml has such a policy)",
        )
    return ok(check, f"{SERVICE} may list, read and write {deployment.storage}")


def _quotas(deployment: Deployment) -> Any:
    return client(deployment, "service-quotas")


def _looked(check: str, look: Callable[[], Any], action: str, resource: str) -> Any:
    """What the call gives; a Finding where it gives nothing."""
    try:
        return look()
    except ClientError as error:
        if is_denied(error):
            fix = f"to have it looked at, allow these credentials {action} on {resource}"
            return unknown(check, "it may not be looked at", fix)
        return failed(check, str(error), "look at what it says")
    except BotoCoreError as error:
        return unknown(check, str(error), "look at the network")


def _document(policy: Any) -> Document:
    """boto3 gives some decoded, some as JSON."""
    found: Document = json.loads(unquote(policy)) if isinstance(policy, str) else policy
    return found
