"""The runner's policy, against what requests name.

The requests are botocore's: each member of an operation that may hold an ARN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import botocore.session
import pytest

from batchrec_dagster.personalize.api import ResourceKind
from batchrec_dagster.personalize.cleanup import ORDER
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.oracles.template import (
    ACCOUNT,
    BUCKET,
    REGION,
    Statement,
    list_runner_statements,
    read_actions,
    read_resources,
)
from batchrec_dagster_tests.personalize.kinds import CREATED_KINDS, FOREIGN_KINDS

ROLE = f"arn:aws:iam::{ACCOUNT}:role/batchrec-PersonalizeRole"
# The types of the members whose name does not say it. IAM knows a solution's versions by their
# solution.
TYPES = {"solutionVersionArn": "solution", "recipeList": "recipe"}
# The code does not send it: dataset groups have no key of their own.
NEVER_SENT = "kmsKeyArn"

Permission = tuple[str, str]
"""An action and the ARN of a resource."""


def build_arn(resource_type: str) -> str:
    """The ARN of a resource of this type. A recipe is Amazon's, in no account and region."""
    place = ":" if resource_type == "recipe" else f"{REGION}:{ACCOUNT}"
    return f"arn:aws:personalize:{place}:{resource_type}/shop"


def list_operations() -> list[str]:
    """The operations of Personalize that the code calls, as botocore's model names them."""

    def name_in_operations(kind: ResourceKind) -> str:
        return kind.member[0].upper() + kind.member[1:]

    operations = {f"List{name_in_operations(kind)}s" for kind in (*CREATED_KINDS, *FOREIGN_KINDS)}
    for kind in CREATED_KINDS:
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
    members = list_arn_members(operation)
    if operation.startswith("List") and operation != "ListTagsForResource":
        return [(action, "*")]
    permissions = [("iam:PassRole", ROLE)] if "roleArn" in members else []
    resource_types = [
        TYPES.get(member, member.removesuffix("Arn"))
        for member in members
        if member not in ("roleArn", NEVER_SENT)
    ]
    if operation.startswith("Create"):
        resource_types.append(operation.removeprefix("Create"))
    permissions += [(action, build_arn(resource_type)) for resource_type in resource_types]
    return list(dict.fromkeys(permissions))


def list_statements() -> list[Statement]:
    """What the runner may do, with the ARN of Personalize's role."""
    text = json.dumps(list_runner_statements())
    statements: list[Statement] = json.loads(text.replace("<PersonalizeRole.Arn>", ROLE))
    return statements


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
    statements = list_statements()
    assert find_denied(statements, list_permissions(operation)) == []


def test_the_runner_deletes_objects_of_its_own_prefix_alone() -> None:
    resources = [
        resource
        for statement in list_runner_statements(Glue="yes", DynamoTable="lists")
        if "s3:DeleteObject" in read_actions(statement)
        for resource in read_resources(statement)
    ]
    # Below it are all pipelines, and so all that their retention deletes.
    assert resources == [f"arn:aws:s3:::{BUCKET}/batchrec/*"]


def test_a_request_for_a_solution_names_its_group_and_recipe_and_a_job_s_its_role() -> None:
    solution = {resource for _, resource in list_permissions("CreateSolution")}
    assert solution == {
        f"arn:aws:personalize:{REGION}:{ACCOUNT}:Solution/shop",
        f"arn:aws:personalize:{REGION}:{ACCOUNT}:datasetGroup/shop",
        "arn:aws:personalize:::recipe/shop",
    }
    assert ("iam:PassRole", ROLE) in list_permissions("CreateBatchSegmentJob")
    assert "filterArn" in list_arn_members("CreateBatchSegmentJob")


def test_what_the_code_never_sends_stands_in_no_request() -> None:
    for path in (REPOSITORY / "batchrec_dagster").rglob("*.py"):
        if "local_personalize" not in path.parts:
            assert NEVER_SENT not in path.read_text(), path


def test_each_action_that_is_taken_from_the_policy_is_missed() -> None:
    statements = list_statements()
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
    statements = list_statements()
    permissions = list_all_permissions()
    everything_of_the_account = f"arn:aws:personalize:{REGION}:{ACCOUNT}:*"
    for resource, narrowed, missed in (
        ("arn:aws:personalize:::recipe/*", everything_of_the_account, "recipe/shop"),
        ("arn:aws:personalize:::recipe/*", "arn:aws:personalize:::recipe/aws-sims", "recipe/shop"),
        (everything_of_the_account, everything_of_the_account + "/shop/*", "Solution/shop"),
        (ROLE, ROLE + "/other", "PersonalizeRole"),
    ):
        text = json.dumps(statements).replace(f'"{resource}"', f'"{narrowed}"')
        denied = find_denied(json.loads(text), permissions)
        assert [name for _, name in denied if name.endswith(missed)], narrowed
