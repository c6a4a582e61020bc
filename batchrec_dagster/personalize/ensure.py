"""Finds, adopts or creates resources in Personalize, and waits until they are ready.

A resource's name says what it was made from. So a run finds what an earlier run created or is still
creating, and starts nothing twice. Botocore has no waiters for Personalize.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.file_formats import MAX_RESULTS
from batchrec_dagster.personalize.resource_kinds import (
    DATA_DELETION_JOB,
    DATASET,
    SCHEMA,
    SOLUTION_VERSION,
    ResourceKind,
)
from batchrec_dagster.personalize.role import explain_role_error
from batchrec_dagster.personalize.schemas import FILTER_HISTORY

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient


# The tags of what a pipeline creates: its name, and the storage of its deployment.
PIPELINE_TAG, STORAGE_TAG = "batchrec:pipeline", "batchrec:storage"
DATA_VERSION_TAG = "batchrec:data-version"
# A solution version's own name is a tag too, because DescribeSolutionVersion may leave it out.
VERSION_NAME_TAG = "batchrec:name"
OWN_TAGS = (PIPELINE_TAG, STORAGE_TAG, DATA_VERSION_TAG, VERSION_NAME_TAG)

ACTIVE = "ACTIVE"
# A data deletion job has statuses of its own: PENDING, IN_PROGRESS, COMPLETED and FAILED.
READY = (ACTIVE, "COMPLETED")
# A job or version with this status is started once more.
CREATE_FAILED = "CREATE FAILED"
FAILED = (CREATE_FAILED, "CREATE STOPPED", "FAILED")
Description = Mapping[str, Any]

# What has a name may be deleted while this run looks for it. After more collisions, the cause is
# another one.
MAX_COLLISIONS = 2

# Personalize may show a resource only some time after it was created. These are the pauses between
# the attempts to see one, as multiples of `Ensure.poll_seconds`: four minutes in all on AWS.
PAUSES_UNTIL_SHOWN = (0.2, 0.5, 1, 2, 4)

# The time in a response is in whole seconds. A response without one leaves the clock of this
# machine, which AWS allows to be wrong by five minutes.
TIME_TOLERANCE = timedelta(seconds=2)
CLOCK_TOLERANCE = timedelta(minutes=5)

# How many numbers of one name may be taken by jobs that List does not show.
MAX_TAKEN_NAMES = 100

# The pause before the next poll is a twentieth of the time waited so far, and never shorter than
# `Ensure.poll_seconds` or longer than twenty times that.
POLLS_PER_WAIT = 20

# Error codes of Personalize.
INVALID = "InvalidInputException"
LIMIT = "LimitExceededException"
NOT_FOUND = "ResourceNotFoundException"

# What the message of a LimitExceededException says if it is about requests that come too fast, and
# if it is about jobs that run at the same time. Other limits are quotas, against which no waiting
# helps.
REQUEST_RATE = re.compile("per second", re.IGNORECASE)
RUNNING_JOBS = re.compile("pending|in[ _]progress|concurrent|running", re.IGNORECASE)

LIMIT_FIX = (
    "delete one that nobody needs (`batchrec teardown NAME` for a pipeline that is gone), or ask"
    " Service Quotas for more"
)
# Jobs and versions cannot be deleted.
JOB_LIMIT_FIX = "reduce what the limit is about, or ask Service Quotas for more"


@dataclass(frozen=True)
class TakenName:
    """The answer that a name is taken: by another run, or by this request if it was repeated."""

    not_before: datetime
    """The time before which Personalize created nothing for this request."""
    message: str
    """Personalize's message."""


@dataclass(frozen=True)
class StartedResource:
    """A resource of any status."""

    arn: str
    created: bool
    """Whether this call created it, even if the answer was lost."""
    usual_seconds: float | None = None
    """How long the last one of its kind took, if that is known."""


@dataclass(frozen=True)
class ReadyResource:
    """A resource that is ready."""

    arn: str
    description: Description
    """Describe's answer."""
    created: bool
    """Whether this run created it."""
    seconds: float
    """How long this run waited for it."""


@dataclass(frozen=True)
class Ensure:
    """Finds, adopts or creates resources through a client, and waits for them."""

    client: PersonalizeClient
    log: logging.Logger
    tags: Mapping[str, str]
    """The tags of each resource that is created."""
    poll_seconds: float
    """The pause between two polls of a resource, at first. It grows with the time waited."""
    busy_seconds: float
    """The pause before a request is repeated that Personalize was too busy for."""
    heartbeat_seconds: float
    """How often it logs that it is still waiting."""
    deadline_seconds: float
    """How long it waits in all, for resources and for a busy Personalize."""
    role_arn: str = ""
    """The role with which jobs read and write the storage."""
    max_results: int = MAX_RESULTS
    """How many results a batch inference may request for each user."""
    filter_interactions: int = FILTER_HISTORY
    """How many of a user's latest interactions a filter considers."""
    on_aws: bool = False
    """Whether jobs cost money."""
    started: float = field(default_factory=time.monotonic)
    """When the waiting started, by the clock `time.monotonic`."""
    waited_for: set[str] = field(default_factory=set)
    """The ARNs of what it has waited for, which no later request has created."""

    def for_data(self, version: str) -> Ensure:
        """An `Ensure` that also tags what it creates with the version of the data."""
        return replace(self, tags={**self.tags, DATA_VERSION_TAG: version})

    def with_deadline(self, seconds: float) -> Ensure:
        """An `Ensure` that from now on waits no longer than this, or than this one would."""
        now = time.monotonic()
        seconds_left = self.started + self.deadline_seconds - now
        return replace(self, started=now, deadline_seconds=min(seconds, seconds_left))

    def tags_of(self, arn: str) -> dict[str, str]:
        """The tags of the resource."""
        tags = self.client.list_tags_for_resource(resourceArn=arn)["tags"]
        return {tag["tagKey"]: tag["tagValue"] for tag in tags}

    def find_or_create(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any], **within: str
    ) -> ReadyResource:
        """The resource of this name, created if there is none.

        create: Create's arguments besides name and tags.
        within: List's filter, for example a dataset group.
        Raises PersonalizeError if the resource failed or is not ready in time.
        """
        started = self.start_named(kind, name, create, **within)
        return self.wait_until_ready(kind, started)

    def start_named(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any], **within: str
    ) -> StartedResource:
        """As `find_or_create`, without waiting."""
        collisions, message = 0, ""
        while collisions < MAX_COLLISIONS:
            summaries = self.list(kind, **within)
            existing = next((item for item in summaries if item[kind.name] == name), None)
            created = False
            if existing is None:
                answer = self._create(kind, name, create)
                if isinstance(answer, str):
                    return StartedResource(answer, created=True)
                message = answer.message
                existing = self._find_taken(kind, name, create, within)
                if existing is None:
                    collisions += 1
                    continue
                if not _is_in(kind, existing, name, within):
                    break
                created = self._is_from_this_call(kind, existing, answer)
            if not str(existing.get("status")).startswith("DELETE"):
                return StartedResource(existing[kind.arn], created=created)
            waiting_for = f"{kind.label} {name} is being deleted"
            self.log.info(f"{waiting_for}; waiting until it is gone")
            self.sleep(self.poll_seconds, waiting_for)
        raise _make_taken_name_error(kind, name, message)

    def start_numbered(
        self,
        kind: ResourceKind,
        stem: str,
        create: Callable[[str], Mapping[str, Any]],
        usable: Callable[[Description], bool] = lambda description: True,
        *,
        among_others: bool = False,
        **within: str,
    ) -> StartedResource:
        """The newest job or version if it was made from this data, or else a new one.

        A name is `stem` and a number, such as `shop-ab12-3`. Of those that have not failed only the
        newest is adopted, and only if its name starts with `stem`: a newer one, made from other
        data, has replaced the older ones.

        stem: says what the job or version is made from.
        create: returns Create's arguments for a name, besides the name and tags.
        usable: returns False for a description to reject, for example if its results are gone.
        among_others: whether a newer one with another stem has not replaced it, because several
            are in use at the same time.
        """
        name, number, message = "", 0, ""
        for _ in range(MAX_TAKEN_NAMES):
            existing = self._list_oldest_first(kind, **within)
            adopted = self._find_adoptable(kind, stem, usable, existing, among_others)
            if adopted is not None:
                return StartedResource(adopted, created=False)
            # Failed ones count too, so that a number is never used twice. After a name that is
            # taken comes the next one, however many List shows by then: a number that was passed
            # over would be free for a run to which List does not show yet what came after it.
            # A name stays taken where List does not show it: by a job of another dataset group, or
            # of a dataset that was deleted, because jobs cannot be deleted.
            number = number + 1 if number else len(existing) + 1
            name = f"{stem}-{number}"
            arguments = create(name)
            usual_seconds = _find_usual_seconds(existing)
            answer = self._create(kind, name, arguments)
            if isinstance(answer, str):
                return StartedResource(answer, created=True, usual_seconds=usual_seconds)
            message = answer.message
            known_arns = {summary[kind.arn] for summary in existing}
            taken = self._find_taken(kind, name, arguments, within, known_arns)
            if taken is None or taken[kind.arn] in known_arns:
                continue
            if _is_in(kind, taken, name, within) and usable(taken):
                created = self._is_from_this_call(kind, taken, answer)
                if created or taken["status"] not in FAILED:
                    return StartedResource(taken[kind.arn], created, usual_seconds)
        raise _make_taken_name_error(kind, name, message)

    def find_numbered(
        self,
        kind: ResourceKind,
        stem: str,
        usable: Callable[[Description], bool] = lambda description: True,
        *,
        among_others: bool = False,
        **within: str,
    ) -> str | None:
        """The ARN of what `start_numbered` would adopt now; None if it would create a new one."""
        existing = self._list_oldest_first(kind, **within)
        return self._find_adoptable(kind, stem, usable, existing, among_others)

    def _list_oldest_first(self, kind: ResourceKind, **within: str) -> list[Description]:
        return sorted(self.list(kind, **within), key=lambda summary: summary["creationDateTime"])

    def _find_adoptable(
        self,
        kind: ResourceKind,
        stem: str,
        usable: Callable[[Description], bool],
        existing: Sequence[Description],
        among_others: bool,
    ) -> str | None:
        """The ARN of the newest that has not failed, if it can serve; else None.

        existing: the summaries, oldest first.
        among_others: whether only those with the stem count.
        """
        candidates = [
            summary
            for summary in existing
            if summary["status"] not in FAILED
            # The summaries of some kinds have no name.
            and (not among_others or summary[kind.name].startswith(f"{stem}-"))
        ]
        if not candidates:
            return None
        newest = candidates[-1]
        arn: str = newest[kind.arn]
        description = self.describe_when_shown(kind, arn)
        can_serve = description[kind.name].startswith(f"{stem}-") and usable(description)
        return arn if can_serve else None

    def start_and_wait(
        self, kind: ResourceKind, start: Callable[[], Sequence[StartedResource]]
    ) -> list[ReadyResource]:
        """The jobs or versions that `start` starts, once they are ready.

        If one of them fails, `start` is called once more. It adopts the others.

        start: adopts or creates each of them.
        Raises PersonalizeError as `wait_until_ready` does.
        """
        started = start()
        try:
            return self.wait_until_all_ready(kind, started)
        except PersonalizeError as error:
            failure = error.details
            if failure.get("status") != CREATE_FAILED:
                raise
            self.log.warning(
                f"{kind.label} failed: {failure['reason']} ({failure['arn']}). It is started once"
                " more"
            )
        created = {resource.arn for resource in started if resource.created}
        again = [
            replace(resource, created=resource.created or resource.arn in created)
            for resource in start()
        ]
        return self.wait_until_all_ready(kind, again)

    def wait_until_ready(self, kind: ResourceKind, started: StartedResource) -> ReadyResource:
        """Wait until it is ACTIVE, or a data deletion job is COMPLETED.

        Raises PersonalizeError with Personalize's reason if it failed, or if the deadline passed; a
        later run then resumes waiting.
        """
        return self.wait_until_all_ready(kind, [started])[0]

    def wait_until_all_ready(
        self, kind: ResourceKind, started: Sequence[StartedResource]
    ) -> list[ReadyResource]:
        """As `wait_until_ready`, for several that were started together."""
        try:
            return [self._wait(kind, resource) for resource in started]
        except Exception:
            raise
        except BaseException:
            # The run was interrupted: neither Dagster's error of a cancelled run nor
            # KeyboardInterrupt is an Exception. Do not go on paying for its training. Personalize
            # cannot stop resources of other kinds.
            if kind is SOLUTION_VERSION:
                for resource in started:
                    self._stop(resource.arn)
            raise

    def _stop(self, solution_version_arn: str) -> None:
        try:
            self.client.stop_solution_version_creation(solutionVersionArn=solution_version_arn)
        except ClientError as error:
            # For example, it has just ended. The run is cancelled anyway.
            self.log.info(f"{solution_version_arn} was not stopped: {error}")
        else:
            self.log.info(f"the run was interrupted: stopping {solution_version_arn}")

    def _wait(self, kind: ResourceKind, started: StartedResource) -> ReadyResource:
        self.waited_for.add(started.arn)
        start = time.monotonic()
        status, last_logged = None, start
        while True:
            description = self.describe_when_shown(kind, started.arn)
            now = time.monotonic()
            if description.get("status", ACTIVE) != status:
                status, last_logged = description.get("status", ACTIVE), now
                self.log.debug(f"{kind.label} {started.arn}: {status}")
            elif now - last_logged >= self.heartbeat_seconds:
                last_logged = now
                self.log.info(
                    f"{kind.label} {started.arn}: still {status}, {now - start:.0f} s"
                    + _describe_time_left(now - start, started.usual_seconds)
                )
            if status in READY:
                return ReadyResource(started.arn, description, started.created, now - start)
            if status in FAILED:
                raise _make_failure_error(kind, started.arn, description)
            # Less often for long jobs.
            longest_pause = POLLS_PER_WAIT * self.poll_seconds
            pause = min(max(self.poll_seconds, (now - start) / POLLS_PER_WAIT), longest_pause)
            self.sleep(pause, f"{kind.label} {started.arn} is {status}")

    def log_resource(self, message: str) -> None:
        """Log what concerns a single resource or costs money.

        On this machine, where nothing costs, Dagster's page hides it at first.
        """
        self.log.log(logging.INFO if self.on_aws else logging.DEBUG, message)

    def list(self, kind: ResourceKind, **within: str) -> list[Description]:
        """All summaries of this kind."""
        client: Any = self.client  # The type stubs only know literal names.
        operation = f"list_{kind.snake}s"
        if kind is DATA_DELETION_JOB:
            # Botocore has a paginator for each of the other kinds.
            pages = _read_pages(getattr(client, operation), within)
        else:
            pages = client.get_paginator(operation).paginate(**within)
        return [summary for page in pages for summary in page[kind.members]]

    def describe(self, kind: ResourceKind, arn: str) -> Description:
        """Describe's answer.

        If it lacks the name of a solution version, the name is that of its tag, or empty.
        """
        answer = getattr(self.client, f"describe_{kind.snake}")(**{kind.arn: arn})
        description: Description = answer[kind.member]
        if kind is SOLUTION_VERSION and not description.get("name"):
            return {**description, "name": self.tags_of(arn).get(VERSION_NAME_TAG, "")}
        return description

    def describe_when_shown(self, kind: ResourceKind, arn: str) -> Description:
        """As `describe`, once Personalize shows what was created or listed a moment ago.

        Raises PersonalizeError if it does not.
        """
        waiting_for = f"Personalize does not show the {kind.label} {arn} yet"
        for pause in (*PAUSES_UNTIL_SHOWN, None):
            description = self._describe_if_shown(kind, arn)
            if description is not None:
                return description
            if pause is not None:
                self.log.info(waiting_for)
                self.sleep(pause * self.poll_seconds, waiting_for)
        raise PersonalizeError(
            f"Personalize does not know the {kind.label} {arn}, though it was there: somebody may"
            " have deleted it. Run again: it creates what is missing"
        )

    def _create(self, kind: ResourceKind, name: str, create: Mapping[str, Any]) -> str | TakenName:
        """The ARN of the new resource, or that its name is taken.

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
            start = time.monotonic()
            try:
                answer = getattr(self.client, f"create_{kind.snake}")(**arguments)
            except ClientError as error:
                code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
                if code == "ResourceAlreadyExistsException":
                    elapsed = timedelta(seconds=time.monotonic() - start)
                    return TakenName(_read_time(error) - elapsed, message)
                if not _is_temporary(code, message):
                    fix = explain_role_error(message, create) if code == INVALID else None
                    if code == LIMIT and self.on_aws:  # The local one says what to do itself.
                        fix = JOB_LIMIT_FIX if kind.is_numbered else LIMIT_FIX
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
                return arn

    def _find_taken(
        self,
        kind: ResourceKind,
        name: str,
        create: Mapping[str, Any],
        within: Mapping[str, str],
        known_arns: Collection[str] = (),
    ) -> Description | None:
        """Describe's answer for the resource that has the name, or None if Personalize shows none.

        List may not show yet what was created a moment ago. So this asks several times, and also
        describes the ARN that the resource must have, unless that does not follow from the name.

        create: Create's arguments besides the name and tags.
        known_arns: the ARNs that List had shown before the request.
        """
        expected_arn = self._build_arn(kind, name, create)
        for pause in (0, *PAUSES_UNTIL_SHOWN):
            if pause:
                waiting_for = f"the {kind.label} {name} exists, but Personalize does not show it"
                self.log.info(f"{waiting_for}; looking again")
                self.sleep(pause * self.poll_seconds, waiting_for)
            description = self._describe_if_shown(kind, expected_arn) if expected_arn else None
            if description is not None:
                return description
            for summary in self.list(kind, **within):
                arn = summary[kind.arn]
                # The summary of a solution version has no name.
                if arn not in known_arns and summary.get(kind.name, name) == name:
                    description = self._describe_if_shown(kind, arn)
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

    def _describe_if_shown(self, kind: ResourceKind, arn: str) -> Description | None:
        try:
            return self.describe(kind, arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != NOT_FOUND:
                raise
            return None

    def _is_from_this_call(
        self, kind: ResourceKind, description: Description, taken: TakenName
    ) -> bool:
        """Whether the call that got this answer created the resource itself.

        Then the answer to the call's first request was lost, and botocore repeated the request.
        """
        arn = description[kind.arn]
        if arn in self.waited_for or description["creationDateTime"] < taken.not_before:
            return False
        if kind is not SCHEMA:  # A schema has no tags.
            tags = self.tags_of(arn)
            if any(tags.get(key) != self.tags.get(key) for key in (PIPELINE_TAG, STORAGE_TAG)):
                return False
        self.log_resource(f"created {kind.label} {arn}; the first answer was lost")
        return True

    def sleep(self, seconds: float, waiting_for: str) -> None:
        """Wait for about this long. Raises PersonalizeError if the deadline would pass."""
        # Jitter: pipelines that start together do not poll together.
        seconds *= random.uniform(0.8, 1.2)  # noqa: S311
        if time.monotonic() + seconds > self.started + self.deadline_seconds:
            raise PersonalizeError(
                f"{waiting_for}, after {self.deadline_seconds / 3600:g} hours. Personalize keeps"
                " working; re-run to resume waiting, or set a longer deadline"
            )
        time.sleep(seconds)


def _read_pages(
    list_page: Callable[..., Description], within: Mapping[str, str]
) -> Iterator[Description]:
    """Yield List's answers, page by page."""
    page = list_page(**within)
    yield page
    while token := page.get("nextToken"):
        page = list_page(**within, nextToken=token)
        yield page


def _is_temporary(code: str, message: str) -> bool:
    """Whether waiting helps: a parent that is not ready, too many jobs or requests at once."""
    if code == LIMIT:
        return bool(RUNNING_JOBS.search(message) or REQUEST_RATE.search(message))
    return code == "ResourceInUseException"


def _find_usual_seconds(existing: Sequence[Description]) -> float | None:
    """How long the last one that succeeded took, if there is one. `existing` is oldest first."""
    for summary in reversed(existing):
        if summary["status"] in READY and "lastUpdatedDateTime" in summary:
            duration = summary["lastUpdatedDateTime"] - summary["creationDateTime"]
            return float(duration.total_seconds())
    return None


def _describe_time_left(seconds: float, usual: float | None) -> str:
    if usual is None:
        return ""
    time_left = f", about {usual - seconds:.0f} s left" if seconds < usual else ""
    return f"; the last one took {usual:.0f} s{time_left}"


def _read_time(error: ClientError) -> datetime:
    """The earliest time that it can be by Personalize's clock, from its response."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    with suppress(ValueError):
        return parsedate_to_datetime(headers.get("date", "")) - TIME_TOLERANCE
    return datetime.now(UTC) - CLOCK_TOLERANCE


def _is_in(
    kind: ResourceKind, description: Description, name: str, within: Mapping[str, str]
) -> bool:
    """Whether the resource has this name, and is in the given parent."""
    parents_match = all(description.get(member, arn) == arn for member, arn in within.items())
    return parents_match and bool(description[kind.name] == name)


def _make_taken_name_error(kind: ResourceKind, name: str, message: str) -> PersonalizeError:
    return PersonalizeError(
        f"Personalize already has a {kind.label} named {name}, but does not list it here: another"
        " dataset group of this account may have it. Rename the pipeline, or delete that"
        f" {kind.label} (Personalize says: {message})"
    )


def _make_failure_error(kind: ResourceKind, arn: str, description: Description) -> PersonalizeError:
    reason = description.get("failureReason") or f"its status is {description['status']}"
    role_fix = explain_role_error(reason, description)
    fix = (
        f"{role_fix or 'Fix the cause'}; then run again: it creates a new one"
        if kind.is_numbered
        else f"Fix the cause, delete this {kind.label} and run again"
    )
    return PersonalizeError(
        f"{kind.label} failed: {reason} ({arn}). {fix}",
        details={"arn": arn, "status": description["status"], "reason": reason},
    )
