"""How much is left of the quotas of Personalize that a pipeline can exhaust."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.doctor.clients import try_call
from batchrec_dagster.doctor.findings import Finding, ok, warning

_FINISHED = ("ACTIVE", "CREATE FAILED", "CREATE STOPPED")


@dataclass(frozen=True)
class Quota:
    """A quota of the Developer Guide's page "Endpoints and quotas"."""

    resources: str
    """What it limits, in words."""
    operation: str
    """boto3's name of the operation that lists these resources."""
    documented: int
    name: str
    """A regular expression that finds its name in Service Quotas."""
    only_unfinished: bool
    """Whether finished resources do not count."""


QUOTAS = (
    Quota("dataset groups", "list_dataset_groups", 5, r"dataset groups$", False),
    Quota("schemas", "list_schemas", 500, r"schemas$", False),
    Quota("imports", "list_dataset_import_jobs", 5, r"import jobs$", True),
    Quota("batch inferences", "list_batch_inference_jobs", 5, r"batch inference jobs$", True),
)


def check_quotas(personalize: Any, quotas: Any) -> Iterator[Finding]:
    """A finding for each quota.

    `personalize` and `quotas` are boto3's clients of `personalize` and `service-quotas`.
    """
    applied_quotas = _read_applied_quotas(quotas)
    for quota in QUOTAS:
        yield _check_quota(quota, personalize, applied_quotas)


def _check_quota(quota: Quota, personalize: Any, applied_quotas: Mapping[str, int]) -> Finding:
    check = f"quota of {quota.resources}"
    action = "personalize:" + "".join(part.capitalize() for part in quota.operation.split("_"))
    resources = try_call(check, partial(_list_resources, personalize, quota.operation), action, "*")
    if isinstance(resources, Finding):
        return replace(resources, status="unknown")
    if quota.only_unfinished:
        resources = [item for item in resources if item["status"] not in _FINISHED]
    used = len(resources)
    limit = _find_limit(quota, applied_quotas)
    message = f"{used} of {limit} {'in progress' if quota.only_unfinished else 'used'}"
    if used < limit:
        return ok(check, message)
    if quota.only_unfinished:
        return warning(check, message, "nothing to do: runs wait until one finishes")
    fix = "delete what you no longer need (NAME_teardown), or ask AWS for a higher quota"
    return warning(check, f"{message}: a new pipeline may find no room", fix)


def _find_limit(quota: Quota, applied_quotas: Mapping[str, int]) -> int:
    """The quota that applies to this account, or else the documented one."""
    for name, limit in applied_quotas.items():
        if re.search(quota.name, name, re.IGNORECASE):
            return limit
    return quota.documented


def _list_resources(personalize: Any, operation: str) -> list[Mapping[str, Any]]:
    pages: dict[str, Any] = personalize.get_paginator(operation).paginate().build_full_result()
    (resources,) = pages.values()
    return list(resources)


def _read_applied_quotas(quotas: Any) -> dict[str, int]:
    """This account's quotas by name; empty if Service Quotas does not answer."""
    try:
        pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="personalize")
        return {
            quota["QuotaName"]: int(quota["Value"]) for page in pages for quota in page["Quotas"]
        }
    except (ClientError, BotoCoreError):
        return {}
