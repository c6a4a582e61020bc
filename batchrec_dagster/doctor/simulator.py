"""What IAM's policy simulator says: which actions a role or user is denied, and how surely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# The simulator may count it as missing for a role, which has none.
_USER_NAME = "aws:username"


@dataclass(frozen=True)
class Denial:
    """An action on a resource that the simulator says is denied."""

    action: str
    resource: str
    doubt: str = ""
    """Why AWS may allow it after all; empty if there is no reason."""

    def __str__(self) -> str:
        return f"{self.action} on {self.resource}"


def find_denials(
    iam: Any,
    principal: str,
    actions: Sequence[str],
    resource: str,
    context: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> list[Denial]:
    """Those of the actions that the role or user may not do on the resource.

    iam: boto3's client of `iam`.
    principal: the ARN of the role or user. That of a role's session will not do.
    context: the condition keys of the requests, with their values.
    Raises botocore's ClientError and BotoCoreError.
    """
    entries = [
        {
            "ContextKeyName": key,
            "ContextKeyValues": list(values),
            "ContextKeyType": "string" if len(values) == 1 else "stringList",
        }
        for key, values in context.items()
    ]
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=principal,
        ActionNames=list(actions),
        ResourceArns=[resource],
        ContextEntries=entries,
    )
    results = [result for page in pages for result in page["EvaluationResults"]]
    return [
        Denial(result["EvalActionName"], resource, _find_doubt(result))
        for result in results
        if not _is_allowed(result)
    ]


def _is_allowed(result: Mapping[str, Any]) -> bool:
    """Whether policies, the organization and the permissions boundary allow the action."""
    boundary = result.get("PermissionsBoundaryDecisionDetail", {})
    return bool(
        result["EvalDecision"] == "allowed"
        and _is_allowed_by_organization(result)
        and boundary.get("AllowedByPermissionsBoundary", True)
    )


def _is_allowed_by_organization(result: Mapping[str, Any]) -> bool:
    organization = result.get("OrganizationsDecisionDetail", {})
    return bool(organization.get("AllowedByOrganizations", True))


def _find_doubt(result: Mapping[str, Any]) -> str:
    """Why the denial may be wrong; empty if there is no reason."""
    if not _is_allowed_by_organization(result):
        # The simulator does not understand their conditions, as users report in
        # https://github.com/aws/aws-sdk/issues/102
        return "a policy of the organization denies it, perhaps under a condition"
    results = [result, *result.get("ResourceSpecificResults", [])]
    missing_keys = {key for entry in results for key in entry.get("MissingContextValues", [])}
    missing_keys.discard(_USER_NAME)
    return f"it depends on {', '.join(sorted(missing_keys))}" if missing_keys else ""
