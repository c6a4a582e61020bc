"""Code that finds, adopts or creates resources in Personalize, and waits until they are ready.

A resource's name tells the inputs that it is made from. So a run finds the resources that an
earlier run created or is still creating, and starts nothing twice. Work that is paid for is never
stopped: the next run adopts it. Botocore has no waiters for Personalize.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    ACTIVE,
    CREATE_FAILED,
    DATA_VERSION_TAG,
    EXISTS,
    FAILED,
    IN_USE,
    LIMIT,
    NOT_FOUND,
    READY,
    SCHEMA,
    SOLUTION_VERSION,
    VERSION_NAME_TAG,
    Description,
    PersonalizeError,
    ResourceKind,
    UnavailableError,
    explain_refusal,
    is_temporary,
    make_failure_error,
    will_fail_again,
)
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.personalize.schemas import FILTER_HISTORY

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

Create = Callable[[str], Mapping[str, Any]]
"""A function that returns Create's arguments for a name, without the name and the tags."""
Usable = Callable[[Description], bool]
"""A function that returns False to reject a job, for example if its results are gone."""

# Personalize may show a resource only some time after its creation. These are the pauses between
# the attempts to see the resource, as multiples of `Resources.poll_seconds`: four minutes in all on
# AWS.
PAUSES_UNTIL_SHOWN = (0.2, 0.5, 1, 2, 4)

# The pause before the next poll is a twentieth of the time waited so far. It is at least
# `Resources.poll_seconds`, and at most twenty times that.
POLLS_PER_WAIT = 20

# The number of names to try if each name is taken by a resource that Personalize does not list. The
# first number is for resources without a number in their name, the second for jobs and versions.
# Somebody may delete a resource while this run looks for it, and a job of a deleted dataset may
# have the same number.
MAX_TAKEN_NAMES, MAX_TAKEN_NUMBERS = 2, 10


@dataclass(frozen=True)
class StartedResource:
    """A resource in any status."""

    arn: str
    created: bool
    """Whether Personalize confirmed to this run that it created the resource."""
    adopted: bool = False
    """Whether this run requested the resource, but its name was taken.

    Either the answer to this run's request was lost, or another run created the resource at the
    same time.
    """


@dataclass(frozen=True)
class ReadyResource:
    """A resource that is ready. The fields mean the same as the fields of `StartedResource`."""

    arn: str
    description: Description
    """Describe's answer."""
    created: bool
    adopted: bool

    @property
    def is_new(self) -> bool:
        """Whether this run requested the resource, and so pays for it."""
        return self.created or self.adopted

    @property
    def seconds(self) -> float:
        """The seconds that the resource took to become ready, in this run or an earlier one."""
        times = self.description
        seconds: float = (times["lastUpdatedDateTime"] - times["creationDateTime"]).total_seconds()
        return seconds

    def describe_work(self, action: str) -> str:
        """Return what this run did: `imported`, or `unchanged: not imported again`.

        For an adopted resource, the text begins with `adopted`.

        action: the work of the job, as a participle, such as `imported`.
        """
        if self.adopted:
            return f"adopted: {action} by a request of which no answer came"
        return action if self.created else f"unchanged: not {action} again"


@dataclass(frozen=True)
class Resources:
    """A client for resources: it finds, adopts or creates them, and waits for them."""

    client: PersonalizeClient
    log: logging.Logger
    tags: Mapping[str, str]
    """The tags for each resource that is created."""
    poll_seconds: float
    """The pause between two polls of a resource, at first. It grows with the time waited."""
    busy_seconds: float
    """The pause before a request is repeated because Personalize was too busy."""
    heartbeat_seconds: float
    """The time between two log messages about a resource that is still being waited for."""
    deadline_seconds: float
    """The total time to wait, for resources and for a busy Personalize."""
    role_arn: str = ""
    """The role with which jobs read and write the storage."""
    max_results: int = MAX_RESULTS
    """The largest number of results per user that a batch inference may request."""
    filter_interactions: int = FILTER_HISTORY
    """The number of a user's latest interactions that a filter considers."""
    on_aws: bool = False
    """Whether jobs cost money."""
    started: float = field(default_factory=time.monotonic)
    """The time at which the waiting started, by the clock `time.monotonic`."""

    def for_data(self, version: str) -> Self:
        """Return a copy that also tags new resources with this version of the data."""
        return replace(self, tags={**self.tags, DATA_VERSION_TAG: version})

    def with_deadline(self, seconds: float) -> Self:
        """Return a copy that waits up to `seconds` from now, within the present deadline."""
        now = time.monotonic()
        seconds_left = self.started + self.deadline_seconds - now
        return replace(self, started=now, deadline_seconds=min(seconds, seconds_left))

    def find_or_create(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any], **within: Any
    ) -> ReadyResource:
        """Return the resource with this name when it is ready; create it if there is none.

        create: Create's arguments, without the name and the tags.
        within: List's filter, for example a dataset group.
        Raises PersonalizeError if the resource failed or is not ready in time.
        """
        return self.wait_until_ready(kind, self.start(kind, name, lambda _: create, **within))

    def start_and_wait(
        self,
        kind: ResourceKind,
        start: Callable[[], Sequence[StartedResource]],
        find_obstacle: Callable[[], str | None] = lambda: None,
    ) -> list[ReadyResource]:
        """Return the jobs or versions that `start` starts, when they are ready.

        If a creation fails for a reason that may pass, `start` is called a second time, and adopts
        the jobs that did not fail.

        start: adopts or creates each job or version.
        find_obstacle: returns why the failed work may not be started a second time, in words; None
            if it may.
        Raises PersonalizeError as `wait_until_ready` does.
        """
        started = start()
        try:
            return [self.wait_until_ready(kind, resource) for resource in started]
        except PersonalizeError as error:
            if error.details.get("status") != CREATE_FAILED:
                raise
            if will_fail_again(error.details["reason"]):
                raise
            obstacle = find_obstacle()
            if obstacle is not None:
                raise PersonalizeError(
                    f"{error}. It was not started once more: {obstacle}", error.details
                ) from error
            self.log.warning(f"{error}. It is started once more")
        first = {resource.arn: resource for resource in started}
        restarted = [first.get(resource.arn, resource) for resource in start()]
        return [self.wait_until_ready(kind, resource) for resource in restarted]

    def start(
        self,
        kind: ResourceKind,
        stem: str,
        create: Create,
        usable: Usable = lambda description: True,
        *,
        among_others: bool = False,
        **within: str,
    ) -> StartedResource:
        """Return an existing resource that can serve, or else a new one. It may not be ready yet.

        stem: the resource's name or, for jobs and versions, the part before the number: `shop-ab12`
            in `shop-ab12-3`. It tells the inputs that the resource is made from. Only the newest
            job or version that has not failed can be adopted. The older ones have been replaced,
            even if the newest one is made from other data.
        among_others: whether several jobs with different stems are in use at the same time. A newer
            job with another stem then does not replace this job.
        within: List's filter, for example a dataset group.
        Raises PersonalizeError.
        """

        def find(summaries: Sequence[Description]) -> str | None:
            return self.find(kind, summaries, stem, usable, among_others=among_others)

        name, message, number = stem, "", 0
        for _ in range(MAX_TAKEN_NUMBERS if kind.is_numbered else MAX_TAKEN_NAMES):
            summaries = self.list(kind, **within)
            arn = find(summaries)
            if arn is not None:
                return StartedResource(arn, created=False)
            if kind.is_numbered:
                # Failed resources count too. If another run creates a resource meanwhile, this
                # number is taken.
                number = max(len(summaries), number) + 1
                name = f"{stem}-{number}"
            arn, message = self._create(kind, name, create(name))
            if arn is not None:
                return StartedResource(arn, created=True)
            waiting_for = f"the {kind.label} {name} exists, but Personalize does not list it"
            for _ in self.attempts_until_shown(waiting_for):
                arn = find(self.list(kind, **within))
                if arn is not None:
                    self.log_resource(f"adopted {kind.label} {arn}")
                    return StartedResource(arn, created=False, adopted=True)
        raise PersonalizeError(
            f"Personalize already has a {kind.label} named {name}, but does not list it here:"
            " another dataset group of this account may have it. Rename the pipeline, or delete"
            f" that {kind.label} (Personalize says: {message})"
        )

    def find(
        self,
        kind: ResourceKind,
        summaries: Sequence[Description],
        stem: str,
        usable: Usable = lambda description: True,
        *,
        among_others: bool = False,
    ) -> str | None:
        """Return the ARN of the resource that `start` would adopt now; None if it would create one.

        If the resource with this name is being deleted, the method waits until it is gone.

        summaries: all summaries that List shows.
        """
        if not kind.is_numbered:
            named = [summary for summary in summaries if summary[kind.name] == stem]
            if not named:
                return None
            arn = str(named[0][kind.arn])
            if not str(named[0].get("status")).startswith("DELETE"):
                return arn
            self.wait_until_gone(kind, arn)
            return None
        candidates = [
            summary
            for summary in summaries
            if summary["status"] not in FAILED
            # The summaries of some kinds have no name.
            and (not among_others or summary[kind.name].startswith(f"{stem}-"))
        ]
        if not candidates:
            return None
        newest = max(candidates, key=lambda summary: summary["creationDateTime"])
        description = self.describe_when_shown(kind, newest[kind.arn])
        can_serve = description[kind.name].startswith(f"{stem}-") and usable(description)
        return str(newest[kind.arn]) if can_serve else None

    def _create(
        self, kind: ResourceKind, name: str, create: Mapping[str, Any]
    ) -> tuple[str | None, str]:
        """Create a resource, and return its ARN and an empty message.

        If the name is taken, return None and Personalize's message. While Personalize is busy, the
        request is repeated until the deadline. Raises PersonalizeError.
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
                # Jobs and trainings end by themselves, so a limit on them is reached only for a
                # while. Other kinds of resources stay, and so do their limits.
                if code != IN_USE and not (code == LIMIT and kind.is_numbered):
                    # The local Personalize gives the fix in its own message.
                    fix = explain_refusal(code, message, create) if self.on_aws else ""
                    kind_of_error = UnavailableError if is_temporary(error) else PersonalizeError
                    raise kind_of_error(
                        f"Personalize rejected the {kind.label} {name}: {message} ({code}){fix}"
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

    def wait_until_ready(self, kind: ResourceKind, started: StartedResource) -> ReadyResource:
        """Wait until the resource is ACTIVE; a data deletion job is ready when it is COMPLETED.

        Raises PersonalizeError if the resource failed, with Personalize's reason, or if the
        deadline passed. After the deadline or an interruption, Personalize keeps working, and a
        later run resumes waiting.
        """
        start = time.monotonic()
        last_status, last_logged = None, start
        while True:
            description = self.describe_when_shown(kind, started.arn)
            now, status = time.monotonic(), description.get("status", ACTIVE)
            if status != last_status:
                last_status, last_logged = status, now
                self.log.debug(f"{kind.label} {started.arn}: {status}")
            elif now - last_logged >= self.heartbeat_seconds:
                last_logged = now
                self.log.info(f"{kind.label} {started.arn}: still {status}, {now - start:.0f} s")
            if status in READY:
                return ReadyResource(started.arn, description, started.created, started.adopted)
            if status in FAILED:
                raise make_failure_error(kind, started.arn, description)
            pause = max(self.poll_seconds, (now - start) / POLLS_PER_WAIT)
            pause = min(pause, self.poll_seconds * POLLS_PER_WAIT)
            self.sleep(pause, f"{kind.label} {started.arn} is {status}")

    def wait_until_gone(self, kind: ResourceKind, arn: str) -> None:
        """Wait until the resource is deleted.

        Raises PersonalizeError if the deletion fails, or at the deadline.
        """
        while description := self.describe_if_shown(kind, arn):
            status = description.get("status", ACTIVE)
            if status == "DELETE FAILED":
                reason = description.get("failureReason")
                raise PersonalizeError(
                    f"{kind.label} {arn} was not deleted: {reason}. Delete it, then run again"
                )
            self.sleep(self.poll_seconds, f"{kind.label} {arn} is {status}")

    def log_resource(self, message: str) -> None:
        """Log a message about a single resource, or about an action that costs money.

        The level is INFO on AWS, else DEBUG, because local work costs nothing. Dagster's page hides
        DEBUG messages at first.
        """
        self.log.log(logging.INFO if self.on_aws else logging.DEBUG, message)

    def list(self, kind: ResourceKind, **within: str) -> list[Description]:
        """Return all summaries of a kind of resource.

        within: List's filter, for example a dataset group.
        """
        list_page = getattr(self.client, f"list_{kind.snake}s")
        # Botocore has no paginator for data deletion jobs.
        page = list_page(**within)
        summaries: list[Description] = page[kind.members]
        while token := page.get("nextToken"):
            page = list_page(**within, nextToken=token)
            summaries += page[kind.members]
        return summaries

    def describe(self, kind: ResourceKind, arn: str) -> Description:
        """Return Describe's answer for the resource.

        If the answer lacks the name of a solution version, the name is taken from its tag, or is
        empty.
        """
        answer = getattr(self.client, f"describe_{kind.snake}")(**{kind.arn: arn})
        description: Description = answer[kind.member]
        if kind is SOLUTION_VERSION and not description.get("name"):
            return {**description, "name": self.tags_of(arn).get(VERSION_NAME_TAG, "")}
        return description

    def tags_of(self, arn: str) -> dict[str, str]:
        """Return the tags of the resource."""
        tags = self.client.list_tags_for_resource(resourceArn=arn)["tags"]
        return {tag["tagKey"]: tag["tagValue"] for tag in tags}

    def describe_when_shown(self, kind: ResourceKind, arn: str) -> Description:
        """Return Describe's answer as soon as Personalize shows a new or just listed resource.

        Raises PersonalizeError if Personalize does not show the resource in time.
        """
        waiting_for = f"Personalize does not show the {kind.label} {arn} yet"
        for _ in self.attempts_until_shown(waiting_for):
            description = self.describe_if_shown(kind, arn)
            if description is not None:
                return description
        raise PersonalizeError(
            f"Personalize does not know the {kind.label} {arn}, though it was there: somebody may"
            " have deleted it. Run again: it creates what is missing"
        )

    def attempts_until_shown(self, waiting_for: str) -> Iterator[None]:
        """Yield once for each attempt to see a resource that was created a moment ago."""
        yield
        for pause in PAUSES_UNTIL_SHOWN:
            self.log.info(waiting_for)
            self.sleep(pause * self.poll_seconds, waiting_for)
            yield

    def describe_if_shown(self, kind: ResourceKind, arn: str) -> Description | None:
        """Return Describe's answer, or None if Personalize does not know the resource."""
        try:
            return self.describe(kind, arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != NOT_FOUND:
                raise
            return None

    def sleep(self, seconds: float, waiting_for: str) -> None:
        """Wait for about this many seconds. Raises PersonalizeError if the deadline would pass."""
        # Random jitter keeps pipelines that start together from polling together.
        seconds *= random.uniform(0.8, 1.2)  # noqa: S311
        if time.monotonic() + seconds > self.started + self.deadline_seconds:
            raise PersonalizeError(
                f"{waiting_for}, after {self.deadline_seconds / 3600:.3g} hours. Personalize keeps"
                " working; run again to go on waiting, or raise BATCHREC_DEADLINE_HOURS"
            )
        time.sleep(seconds)
