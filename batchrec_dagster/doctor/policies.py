"""What a policy document allows a service, as far as a doctor has to know.

Source: IAM user guide, "Policy evaluation logic". Conditions are understood where they bind a
service to an account; any other is taken not to hold for an Allow, and not to hold for a Deny.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
