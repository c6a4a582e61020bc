"""What IAM's policy simulator says: which actions a role or user is denied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


def find_denied_actions(
    iam: Any,
    principal: str,
    actions: Sequence[str],
    resource: str,
    context: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Those of the actions that the role or user may not do on the resource.

    iam: boto3's client of `iam`.
    principal: the ARN of the role or user. That of a role's session will not do.
    context: the condition keys of the requests, with their values.
    Raises botocore's ClientError and BotoCoreError.
    """
    entries = [
        {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
        for key, value in context.items()
    ]
    pages = iam.get_paginator("simulate_principal_policy").paginate(
        PolicySourceArn=principal,
        ActionNames=list(actions),
        ResourceArns=[resource],
        ContextEntries=entries,
    )
    results = [result for page in pages for result in page["EvaluationResults"]]
    return [result["EvalActionName"] for result in results if not _is_allowed(result)]


def _is_allowed(result: Mapping[str, Any]) -> bool:
    """Whether policies, the organization and the permissions boundary allow the action."""
    organization = result.get("OrganizationsDecisionDetail", {})
    boundary = result.get("PermissionsBoundaryDecisionDetail", {})
    return bool(
        result["EvalDecision"] == "allowed"
        and organization.get("AllowedByOrganizations", True)
        and boundary.get("AllowedByPermissionsBoundary", True)
    )
