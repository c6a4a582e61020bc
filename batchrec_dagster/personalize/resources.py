"""Finds, adopts or creates resources in Personalize, and waits until they are ready.

A resource's name says what it was made from. So a run finds what an earlier run created or is still
creating, and starts nothing twice. What is paid for is never stopped: the next run adopts it.
Botocore has no waiters for Personalize.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    DATASET,
    EXISTS,
    FAILED,
    IN_USE,
    INVALID,
    LIMIT,
    QUOTA_FIX,
    READY,
    SCHEMA,
    SOLUTION_VERSION,
    VERSION_NAME_TAG,
    Description,
    PersonalizeError,
    ResourceKind,
    explain_role_error,
)
from batchrec_dagster.personalize.waiting import ReadyResource, StartedResource, Waiting

Create = Callable[[str], Mapping[str, Any]]
"""Returns Create's arguments for a name, besides the name and the tags."""

# How many names may be taken that Personalize does not show: what has a name may be deleted while
# this run looks for it, and a job's number may be used up by a dataset that is gone.
MAX_COLLISIONS, MAX_TAKEN_NUMBERS = 2, 100


@dataclass(frozen=True)
class Ensure(Waiting):
    """Finds, adopts or creates resources through a client, and waits for them."""

    def find_or_create(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any], **within: Any
    ) -> ReadyResource:
        """The resource of this name, created if there is none.

        create: Create's arguments besides name and tags.
        within: List's filter, for example a dataset group.
        Raises PersonalizeError if the resource failed or is not ready in time.
        """
        return self.wait_until_ready(kind, self.start(kind, name, lambda _: create, **within))

    def start(
        self,
        kind: ResourceKind,
        stem: str,
        create: Create,
        usable: Callable[[Description], bool] = lambda description: True,
        *,
        among_others: bool = False,
        **within: str,
    ) -> StartedResource:
        """The resource that exists and can serve, or else a new one. It may not be ready.

        stem: the name or, of jobs and versions, what comes before the number, as in `shop-ab12-3`.
            It says what the resource is made from. Of jobs and versions that have not failed only
            the newest is adopted: made from other data, it has replaced the older ones.
        usable: returns False for a job to reject, for example if its results are gone.
        among_others: whether a newer job with another stem has not replaced it, because several
            are in use at the same time.
        within: List's filter, for example a dataset group.
        Raises PersonalizeError.
        """
        number, collisions, message = 0, 0, ""
        while collisions < (MAX_TAKEN_NUMBERS if kind.is_numbered else MAX_COLLISIONS):
            existing = self._list_oldest_first(kind, **within)
            arn = self._find_adoptable(kind, stem, usable, existing, among_others=among_others)
            if arn is not None:
                return StartedResource(arn, created=False)
            name = stem
            if kind.is_numbered:
                # Failed ones count too, so that a number is never used twice. After a number that
                # is taken comes the next one, however many List shows by then.
                number = number + 1 if number else len(existing) + 1
                name = f"{stem}-{number}"
            arguments = create(name)
            arn, message = self._create(kind, name, arguments)
            if arn is not None:
                return StartedResource(
                    arn, created=True, usual_seconds=_find_usual_seconds(existing)
                )
            known_arns = {summary[kind.arn] for summary in existing if kind.is_numbered}
            taken = self._find_taken(kind, name, arguments, within, known_arns)
            collisions += 1
            if taken is None or taken[kind.arn] in known_arns:
                continue
            if _is_in(kind, taken, name, within) and self._can_adopt(kind, taken, usable):
                self.log_resource(f"adopted {kind.label} {taken[kind.arn]}")
                return StartedResource(taken[kind.arn], created=False)
            if not kind.is_numbered and not _is_in(kind, taken, name, within):
                break
        raise PersonalizeError(
            f"Personalize already has a {kind.label} named {name}, but does not list it here:"
            " another dataset group of this account may have it. Rename the pipeline, or delete"
            f" that {kind.label} (Personalize says: {message})"
        )

    def find(
        self,
        kind: ResourceKind,
        stem: str,
        usable: Callable[[Description], bool] = lambda description: True,
        *,
        among_others: bool = False,
        **within: str,
    ) -> str | None:
        """The ARN of what `start` would adopt now; None if it would create a new one."""
        existing = self._list_oldest_first(kind, **within)
        return self._find_adoptable(kind, stem, usable, existing, among_others=among_others)

    def _list_oldest_first(self, kind: ResourceKind, **within: str) -> list[Description]:
        return sorted(self.list(kind, **within), key=lambda summary: summary["creationDateTime"])

    def _find_adoptable(
        self,
        kind: ResourceKind,
        stem: str,
        usable: Callable[[Description], bool],
        existing: Sequence[Description],
        *,
        among_others: bool,
    ) -> str | None:
        """The ARN of the resource that can serve, among these summaries, oldest first; else None.

        One that is being deleted is waited for.
        """
        if not kind.is_numbered:
            named = [summary for summary in existing if summary[kind.name] == stem]
            if named and self._can_adopt(kind, named[0], usable):
                return str(named[0][kind.arn])
            return None
        candidates = [
            summary
            for summary in existing
            if summary["status"] not in FAILED
            # The summaries of some kinds have no name.
            and (not among_others or summary[kind.name].startswith(f"{stem}-"))
        ]
        if not candidates:
            return None
        arn: str = candidates[-1][kind.arn]
        description = self.describe_when_shown(kind, arn)
        can_serve = description[kind.name].startswith(f"{stem}-") and usable(description)
        return arn if can_serve else None

    def _can_adopt(
        self, kind: ResourceKind, resource: Description, usable: Callable[[Description], bool]
    ) -> bool:
        if kind.is_numbered:
            return resource["status"] not in FAILED and usable(resource)
        while str(resource.get("status")).startswith("DELETE"):
            waiting_for = f"{kind.label} {resource[kind.name]} is being deleted"
            self.log.info(f"{waiting_for}; waiting until it is gone")
            self.sleep(self.poll_seconds, waiting_for)
            newer = self.describe_if_shown(kind, resource[kind.arn])
            if newer is None:
                return False
            resource = newer
        return True

    def _create(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any]
    ) -> tuple[str | None, str]:
        """The ARN of the new resource; or None, and what Personalize says, if the name is taken.

        While Personalize is busy, the request is repeated until the deadline. Raises
        PersonalizeError.
        """
        arguments = {kind.name: name, **create}
        if kind is not SCHEMA:
            tags = dict(self.tags)
            if kind is SOLUTION_VERSION:
                tags[VERSION_NAME_TAG] = name
            arguments["tags"] = [{"tagKey": key, "tagValue": value} for key, value in tags.items()]
        while True:
            try:
                answer = getattr(self.client, f"create_{kind.snake}")(**arguments)
            except ClientError as error:
                code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
                if code == EXISTS:
                    return None, message
                # Numbered work ends by itself, so its limits do too. Those of other kinds last.
                if code != IN_USE and not (code == LIMIT and kind.is_numbered):
                    fix = explain_role_error(message, create) if code == INVALID else None
                    if code == LIMIT and self.on_aws:  # The local one says what to do itself.
                        fix = QUOTA_FIX
                    raise PersonalizeError(
                        f"Personalize rejected the {kind.label} {name}: {message} ({code})"
                        + (f"; {fix}" if fix else ""),
                    ) from error
                self.log.info(
                    f"Personalize is busy ({message}); retrying the {kind.label} {name}"
                    f" in {self.busy_seconds:.0f} s"
                )
                self.sleep(self.busy_seconds, f"Personalize is still busy: {message}")
            else:
                arn: str = answer[kind.arn]
                self.log_resource(f"created {kind.label} {arn}")
                return arn, ""

    def _find_taken(
        self,
        kind: ResourceKind,
        name: str,
        create: Mapping[str, Any],
        within: Mapping[str, str],
        known_arns: set[str],
    ) -> Description | None:
        """Describe's answer for the resource that has the name, or None if Personalize shows none.

        List may not show yet what was created a moment ago. So this asks several times, and also
        describes the ARN that the resource must have, unless that does not follow from the name.

        create: Create's arguments besides the name and tags.
        known_arns: the ARNs of jobs that List had shown before the request.
        """
        expected_arn = self._build_arn(kind, name, create)
        waiting_for = f"the {kind.label} {name} exists, but Personalize does not show it"
        for _ in self.attempts_until_shown(waiting_for):
            description = self.describe_if_shown(kind, expected_arn) if expected_arn else None
            if description is not None:
                return description
            for summary in self.list(kind, **within):
                arn = summary[kind.arn]
                # The summary of a solution version has no name.
                if arn not in known_arns and summary.get(kind.name, name) == name:
                    description = self.describe_if_shown(kind, arn)
                    if description is not None and description[kind.name] == name:
                        return description
        return None

    def _build_arn(self, kind: ResourceKind, name: str, create: Mapping[str, Any]) -> str | None:
        """The ARN of the resource of this name, or None if it is not known.

        create: Create's arguments, of which one may be the ARN of another resource.
        """
        if kind is SOLUTION_VERSION:
            return None
        if kind is DATASET:
            datasets = str(create["datasetGroupArn"]).replace(":dataset-group/", ":dataset/")
            return f"{datasets}/{create['datasetType']}"
        for argument in create.values():
            # A recipe's ARN has no account.
            account = re.match(r"arn:[\w-]+:personalize:[\w-]+:\d{12}:", str(argument))
            if account:
                return f"{account[0]}{kind.resource_type}/{name}"
        if not self.role_arn:
            return None
        # Only a role of the same account can be passed to Personalize.
        account_id = self.role_arn.split(":")[4]
        meta = self.client.meta
        prefix = f"arn:{meta.partition}:personalize:{meta.region_name}:{account_id}"
        return f"{prefix}:{kind.resource_type}/{name}"


def _find_usual_seconds(existing: Sequence[Description]) -> float | None:
    """How long the last one that succeeded took, if there is one. `existing` is oldest first."""
    for summary in reversed(existing):
        if summary.get("status") in READY and "lastUpdatedDateTime" in summary:
            duration = summary["lastUpdatedDateTime"] - summary["creationDateTime"]
            return float(duration.total_seconds())
    return None


def _is_in(
    kind: ResourceKind, description: Description, name: str, within: Mapping[str, str]
) -> bool:
    """Whether the resource has this name, and is in the given parent."""
    parents_match = all(description.get(member, arn) == arn for member, arn in within.items())
    return parents_match and bool(description[kind.name] == name)
