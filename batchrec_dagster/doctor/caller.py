"""Whether these credentials may do in Personalize what the pipelines do, by IAM's simulator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.tags import parse_tags
from batchrec_dagster.doctor.clients import make_client, make_session, try_call
from batchrec_dagster.doctor.findings import Finding, failed, ok, unknown
from batchrec_dagster.doctor.policies import SERVICE, Permission
from batchrec_dagster.doctor.simulator import Denial, find_denials
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.recipes import USER_RECIPES, build_recipe_arn
from batchrec_dagster.personalize.resource_kinds import (
    CREATED_KINDS,
    FOREIGN_KINDS,
    SCHEMA,
    SOLUTION_VERSION,
    ResourceKind,
)
from batchrec_dagster.personalize.teardown import ORDER

CHECK = "permissions"

# How many of the missing permissions a message names.
_MOST_NAMED = 4


def list_needed_permissions(region: str, role_arn: str) -> list[Permission]:
    """What the pipelines need to be allowed, besides the storage, each with a resource.

    The names of resources are made up.
    role_arn: the role of Personalize.
    """
    return list(_generate_permissions(region, role_arn))


def _generate_permissions(region: str, role_arn: str) -> Iterator[Permission]:
    _, partition, _, _, account, _ = role_arn.split(":", 5)
    prefix = f"arn:{partition}:personalize:{region}:{account}"
    # A teardown lists foreign kinds too, so that it does not delete what others created in the
    # pipeline's dataset groups.
    for kind in (*CREATED_KINDS, *FOREIGN_KINDS):
        yield f"personalize:List{_name_in_actions(kind)}s", "*"
    for kind in CREATED_KINDS:
        # IAM knows a solution's versions by their solution.
        segment = "solution" if kind is SOLUTION_VERSION else kind.label.replace(" ", "-")
        arn = f"{prefix}:{segment}/batchrec-doctor"
        for verb in ("Create", "Describe", "Delete") if kind in ORDER else ("Create", "Describe"):
            yield f"personalize:{verb}{_name_in_actions(kind)}", arn
        if kind is not SCHEMA:  # Schemas have no tags.
            yield "personalize:TagResource", arn
            yield "personalize:ListTagsForResource", arn
        if kind is SOLUTION_VERSION:
            yield "personalize:GetSolutionMetrics", arn
            yield "personalize:StopSolutionVersionCreation", arn
    for recipe in USER_RECIPES:
        yield "personalize:CreateSolution", build_recipe_arn(recipe, partition)
    yield "iam:PassRole", role_arn


def _name_in_actions(kind: ResourceKind) -> str:
    """`dataset group` -> `DatasetGroup`."""
    return "".join(word.capitalize() for word in kind.label.split())


def check_caller(deployment: Deployment, caller: str) -> Finding:
    """Whether the caller, named by its ARN, may do what the pipelines do."""
    principal = _find_principal(deployment, caller)
    if isinstance(principal, Finding):
        return principal
    region = str(make_session(deployment).region_name)

    def find_all_denials() -> list[Denial]:
        actions_by_resource: dict[str, list[str]] = defaultdict(list)
        for action, resource in list_needed_permissions(region, deployment.role_arn):
            if action not in actions_by_resource[resource]:
                actions_by_resource[resource].append(action)
        iam, context = make_client(deployment, "iam"), _describe_requests(deployment, region)
        return [
            denial
            for resource, actions in actions_by_resource.items()
            for denial in find_denials(iam, principal, actions, resource, context)
        ]

    denials = try_call(CHECK, find_all_denials, "iam:SimulatePrincipalPolicy", principal)
    if isinstance(denials, Finding):
        # The simulator failed, for example because it was asked too often, and not the caller.
        return replace(denials, status="unknown")
    if certain_denials := [denial for denial in denials if not denial.doubt]:
        return failed(
            CHECK,
            f"{principal} may not do what the pipelines do: {_list_first(certain_denials)}",
            "deploy the stack of deploy/batchrec.yaml again, or attach its RunnerPolicyArn",
        )
    if denials:
        return unknown(
            CHECK,
            f"IAM's policy simulator denies {principal} {_list_first(denials)}: {denials[0].doubt}",
            "check that this policy allows it; if not, a run fails with AWS's reason",
        )
    return ok(CHECK, f"{principal} may do what the pipelines do, by IAM's policy simulator")


def _describe_requests(deployment: Deployment, region: str) -> dict[str, list[str]]:
    """The condition keys of the pipelines' requests that policies may ask for."""
    tags = {**dict.fromkeys(api.OWN_TAGS, "doctor"), **parse_tags(deployment.tags)}
    return {
        "iam:PassedToService": [SERVICE],
        "aws:RequestedRegion": [region],
        "aws:TagKeys": list(tags),
        **{f"aws:RequestTag/{key}": [value] for key, value in tags.items()},
    }


def _list_first(denials: Sequence[Denial]) -> str:
    names = [str(denial) for denial in denials[:_MOST_NAMED]]
    if len(denials) > _MOST_NAMED:
        names.append(f"{len(denials) - _MOST_NAMED} more")
    return ", ".join(names)


def _find_principal(deployment: Deployment, caller: str) -> str | Finding:
    """The ARN of the role or user that the simulator can be asked about."""
    _, partition, _, _, account, name = caller.split(":", 5)
    kind, _, path = name.partition("/")
    if kind == "user":
        return caller
    if kind == "root":
        return ok(CHECK, "the account's root user may do everything")
    if kind != "assumed-role":
        return unknown(
            CHECK, f"IAM's policy simulator does not know {caller}", "use a role or a user"
        )
    # A session's ARN leaves out the path of its role.
    role = path.partition("/")[0]

    def get_role() -> Any:
        return make_client(deployment, "iam").get_role(RoleName=role)["Role"]["Arn"]

    arn = f"arn:{partition}:iam::{account}:role/{role}"
    answer: str | Finding = try_call(CHECK, get_role, "iam:GetRole", arn)
    return replace(answer, status="unknown") if isinstance(answer, Finding) else answer
