"""AWS: the credentials, Personalize, and what its role may do in the bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.resources import AWS
from batchrec_dagster.doctor.aws_quotas import check_quotas
from batchrec_dagster.doctor.caller import check_caller
from batchrec_dagster.doctor.clients import CHECK_NETWORK, make_client, make_session, try_call
from batchrec_dagster.doctor.findings import Finding, failed, ok, unknown, warning
from batchrec_dagster.doctor.policies import (
    SERVICE,
    find_conditional_denies,
    find_missing_permissions,
    parse_policy,
)
from batchrec_dagster.doctor.simulator import Denial, find_denials
from batchrec_dagster.storage import permissions
from batchrec_dagster.storage.object_store import split_uri


def check_aws(deployment: Deployment) -> Iterator[Finding]:
    """Findings about AWS and its Personalize; none if Personalize is the embedded one."""
    if deployment.embedded:
        return
    if deployment.personalize != AWS:
        yield _check_personalize(deployment)
        return
    yield _check_region(deployment)
    caller = _identify_caller(deployment)
    if isinstance(caller, Finding):
        yield caller
        return
    yield ok("identity", caller)
    personalize = _check_personalize(deployment)
    yield personalize
    yield check_caller(deployment, caller)
    yield from _check_role(deployment)
    yield _check_bucket_policy(deployment)
    if personalize.status == "ok":
        yield from check_quotas(
            make_client(deployment, "personalize"), make_client(deployment, "service-quotas")
        )


def _check_region(deployment: Deployment) -> Finding:
    aws = make_session(deployment)
    region = aws.region_name
    regions = aws.get_available_regions(
        "personalize", partition_name=permissions.find_partition(region)
    )
    fix = f"set AWS_REGION to one of: {', '.join(regions) or 'another partition'}"
    if region is None:
        return failed("region", "no region is set", fix)
    if region not in regions:
        return failed("region", f"boto3 knows no Personalize in {region}", fix)
    return ok("region", region)


def _identify_caller(deployment: Deployment) -> str | Finding:
    """The ARN that the credentials stand for, or the finding that they are of no use."""
    check = "identity"
    try:
        caller = make_client(deployment, "sts").get_caller_identity()
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        fix = permissions.explain_credentials_error(code, message) or "check the credentials"
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
    return str(caller["Arn"])


def _check_personalize(deployment: Deployment) -> Finding:
    check = "personalize"
    where = "Amazon Personalize" if deployment.personalize == AWS else deployment.personalize
    try:
        make_client(deployment, "personalize").list_dataset_groups(maxResults=1)
    except ClientError as error:
        if permissions.is_denied(error):
            fix = permissions.explain_missing_permission(
                "personalize:ListDatasetGroups", "*", str(error)
            )
            return failed(check, f"{where} denies access", fix)
        return failed(check, f"{where} answers: {error}", "fix what the message names")
    except BotoCoreError as error:
        fix = CHECK_NETWORK
        if deployment.personalize != AWS:
            fix = "start it (batchrec local-personalize), or fix BATCHREC_PERSONALIZE"
        return failed(check, f"cannot reach {where}: {error}", fix)
    return ok(check, f"{where} answers")


def _check_role(deployment: Deployment) -> Iterator[Finding]:
    role = deployment.role_arn
    check, name = "role", role.rpartition("/")[2]

    def get_role() -> Any:
        return make_client(deployment, "iam").get_role(RoleName=name)["Role"]

    answer = try_call(check, get_role, "iam:GetRole", role)
    if isinstance(answer, Finding):
        missing = "NoSuchEntity" in answer.message
        fix = "create it (deploy/batchrec.yaml), or fix BATCHREC_ROLE_ARN"
        yield failed(check, f"there is no role {name}", fix) if missing else answer
        return
    trust = parse_policy(answer["AssumeRolePolicyDocument"])
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
    """Whether the role may do in the bucket what batch jobs need, by IAM's policy simulator."""
    check, role = "role in storage", deployment.role_arn
    arn, objects = _get_storage_arns(deployment)

    # IAM's simulator is asked about each resource with the actions that go with it.
    def find_all_denials() -> list[Denial]:
        iam = make_client(deployment, "iam")
        return [
            *find_denials(iam, role, ["s3:GetObject", "s3:PutObject"], objects),
            *find_denials(iam, role, ["s3:ListBucket"], arn),
        ]

    denials = try_call(check, find_all_denials, "iam:SimulatePrincipalPolicy", role)
    if isinstance(denials, Finding):
        return denials
    if denials:
        actions = [denial.action for denial in denials]
        doubts = {denial.doubt for denial in denials}
        fix = f"allow it {' and '.join(actions)} on {arn} and {deployment.storage.rstrip('/')}/*"
        if "" in doubts:
            return failed(check, f"{role} lacks {', '.join(actions)}", fix)
        return unknown(
            check, f"{role} may lack {', '.join(actions)}: {'; '.join(sorted(doubts))}", fix
        )
    return ok(check, f"{role} can list, read and write {deployment.storage}")


def _get_storage_arns(deployment: Deployment) -> tuple[str, str]:
    """The ARNs of the bucket, and of an object there like those that a batch job writes."""
    bucket, prefix = split_uri(deployment.storage)
    folder = f"{prefix.rstrip('/')}/" if prefix else ""
    # The second part of an ARN is the partition: aws, aws-cn or aws-us-gov.
    arn = f"arn:{deployment.role_arn.split(':')[1]}:s3:::{bucket}"
    return arn, f"{arn}/{folder}doctor/curated/x"


def _check_bucket_policy(deployment: Deployment) -> Finding:
    check = "bucket policy"
    bucket, _ = split_uri(deployment.storage)
    arn, objects = _get_storage_arns(deployment)

    def get_policy() -> Any:
        return make_client(deployment, "s3").get_bucket_policy(Bucket=bucket)["Policy"]

    answer = try_call(check, get_policy, "s3:GetBucketPolicy", arn)
    if isinstance(answer, Finding) and "NoSuchBucketPolicy" not in answer.message:
        return answer
    permissions_needed = [
        ("s3:ListBucket", arn),
        ("s3:GetObject", objects),
        ("s3:PutObject", objects),
    ]
    policy = {} if isinstance(answer, Finding) else parse_policy(answer)
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
