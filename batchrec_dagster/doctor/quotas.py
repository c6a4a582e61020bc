"""What is left of Personalize's quotas. Source: developer guide, "Endpoints and quotas"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from batchrec_dagster.doctor.findings import Finding, ok, unknown, warning
from batchrec_dagster.personalize.permissions import is_denied

# What is counted: the operation, its member, the documented quota, how Service Quotas names it,
# whether only what is under way counts.
_COUNTED = {
    "dataset groups": ("list_dataset_groups", "datasetGroups", 5, r"dataset groups$", False),
    "schemas": ("list_schemas", "schemas", 500, r"schemas$", False),
    "imports": ("list_dataset_import_jobs", "datasetImportJobs", 5, r"import jobs$", True),
    "batch inferences": (
        *("list_batch_inference_jobs", "batchInferenceJobs", 5),
        *(r"batch inference jobs$", True),
    ),
}
_DONE = ("ACTIVE", "CREATE FAILED", "CREATE STOPPED")


def quota_findings(personalize: Any, quotas: Any) -> Iterator[Finding]:
    """One a quota. A pipeline whose dataset group and schema exist needs no other."""
    applied = _applied(quotas)
    for what, (operation, member, documented, name, under_way) in _COUNTED.items():
        check = f"quota of {what}"
        most = next(
            (value for key, value in applied.items() if re.search(name, key, re.IGNORECASE)),
            documented,
        )
        try:
            found = _all(getattr(personalize, operation), member)
        except ClientError as error:
            action = "personalize:" + "".join(part.capitalize() for part in operation.split("_"))
            fix = f"to have it counted, allow these credentials {action} on *"
            yield unknown(check, "it may not be counted" if is_denied(error) else str(error), fix)
            continue
        except BotoCoreError as error:
            yield unknown(check, str(error), "look at the network")
            continue
        used = len([one for one in found if not (under_way and one["status"] in _DONE)])
        said = f"{used} of {most} {'at work' if under_way else 'used'}"
        if used < most:
            yield ok(check, said)
        elif under_way:
            yield warning(check, said, "nothing: a run waits until one is done")
        else:
            fix = "delete what nobody needs (NAME_teardown), or ask Service Quotas for more"
            yield warning(check, f"{said}: no new pipeline, or schema, can be made", fix)


def _applied(quotas: Any) -> dict[str, int]:
    """What Service Quotas says of this account, by name; nothing where it may not be asked."""
    try:
        pages = quotas.get_paginator("list_service_quotas").paginate(ServiceCode="personalize")
        return {
            quota["QuotaName"]: int(quota["Value"]) for page in pages for quota in page["Quotas"]
        }
    except (ClientError, BotoCoreError):
        return {}


def _all(operation: Any, member: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token: dict[str, str] = {}
    while True:
        page = operation(maxResults=100, **token)
        found += page[member]
        if not page.get("nextToken"):
            return found
        token = {"nextToken": page["nextToken"]}
