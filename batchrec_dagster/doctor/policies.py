"""What a policy of AWS allows a service: a role's trust policy, or a bucket's policy.

IAM's policy simulator does not answer this for a service, so the documents are read here. Only
conditions on the account that the service works for are understood. An Allow with any other
condition counts as none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote

SERVICE = "personalize.amazonaws.com"

PolicyDocument = Mapping[str, Any]
Permission = tuple[str, str]
"""An action, such as s3:GetObject, and the ARN of the resource."""

_ACCOUNT_OPERATORS = ("StringEquals", "StringLike", "ArnEquals", "ArnLike")

# A Deny with one of these keys spares the requests of a service, which come over TLS.
_SPARING_KEYS = {"aws:securetransport", "aws:principalisawsservice"}


def parse_policy(policy: Any) -> PolicyDocument:
    """The policy's document: boto3 decodes some policies, and returns others as JSON."""
    document: PolicyDocument = json.loads(unquote(policy)) if isinstance(policy, str) else policy
    return document


def find_missing_permissions(
    document: PolicyDocument, service: str, account: str, permissions: Iterable[Permission]
) -> list[Permission]:
    """Those of the permissions that the policy does not give the service.

    `account` is the one that the service works for.
    """
    return [
        (action, resource)
        for action, resource in permissions
        if not _allows(document, service, account, action, resource)
    ]


def find_conditional_denies(
    document: PolicyDocument, service: str, permissions: Iterable[Permission]
) -> list[str]:
    """The statements that may, under a condition, deny the service one of the permissions.

    Each is named by its Sid and the keys of its condition.
    """
    needed = list(permissions)
    descriptions = []
    for statement in _as_list(document.get("Statement")):
        if statement["Effect"] != "Deny" or not statement.get("Condition"):
            continue
        keys = {key for values in statement["Condition"].values() for key in values}
        if _SPARING_KEYS & {key.lower() for key in keys}:
            continue
        if any(_applies(statement, service, action, resource) for action, resource in needed):
            name = statement.get("Sid", "a statement without Sid")
            descriptions.append(f"{name} ({', '.join(sorted(keys))})")
    return descriptions


def _allows(
    document: PolicyDocument, service: str, account: str, action: str, resource: str
) -> bool:
    is_allowed = False
    for statement in _as_list(document.get("Statement")):
        if not _applies(statement, service, action, resource):
            continue
        condition = statement.get("Condition") or {}
        if statement["Effect"] == "Deny" and not condition:
            return False
        if statement["Effect"] == "Allow" and _condition_holds(condition, account):
            is_allowed = True
    return is_allowed


def _applies(statement: Mapping[str, Any], service: str, action: str, resource: str) -> bool:
    """Whether the statement is about this action of the service, whatever its condition."""
    # A trust policy names no resource.
    resources = _as_list(statement.get("Resource", "*"))
    return (
        _names_service(statement.get("Principal"), service)
        and any(_matches(pattern, action) for pattern in _as_list(statement.get("Action")))
        and any(_matches(pattern, resource) for pattern in resources)
    )


def _names_service(principal: Any, service: str) -> bool:
    if principal == "*":
        return True
    if not isinstance(principal, Mapping):
        return False
    return service in _as_list(principal.get("Service")) or "*" in _as_list(principal.get("AWS"))


def _condition_holds(condition: Mapping[str, Mapping[str, Any]], account: str) -> bool:
    """Whether the condition holds for the service's requests on behalf of this account."""
    return all(
        operator in _ACCOUNT_OPERATORS
        and any(_names_account(key, value, account) for value in _as_list(values))
        for operator, values_by_key in condition.items()
        for key, values in values_by_key.items()
    )


def _names_account(key: str, value: str, account: str) -> bool:
    if key.lower() == "aws:sourceaccount":
        return _matches(value, account)
    if key.lower() == "aws:sourcearn":
        # The account is the fifth part of an ARN.
        return value == "*" or _matches("".join(value.split(":")[4:5]), account)
    return False


def _matches(pattern: str, text: str) -> bool:
    """Whether the text matches a pattern of AWS, in which * and ? stand for other characters."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, text, re.IGNORECASE) is not None


def _as_list(value: Any) -> list[Any]:
    """The value as a list: policies may leave out the list around one value, or the value."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
