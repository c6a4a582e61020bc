"""Looks at resources in Personalize, and waits until they are ready.

What is paid for is never stopped: a run that ends early leaves it to the next one. Botocore has no
waiters for Personalize.
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
    DATA_DELETION_JOB,
    DATA_VERSION_TAG,
    FAILED,
    NOT_FOUND,
    READY,
    SOLUTION_VERSION,
    VERSION_NAME_TAG,
    Description,
    PersonalizeError,
    ResourceKind,
    make_failure_error,
)
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.personalize.schemas import FILTER_HISTORY

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

# Personalize may show a resource only some time after it was created. These are the pauses between
# the attempts to see one, as multiples of `Waiting.poll_seconds`: four minutes in all on AWS.
PAUSES_UNTIL_SHOWN = (0.2, 0.5, 1, 2, 4)

# The pause before the next poll is a twentieth of the time waited so far, and never shorter than
# `Waiting.poll_seconds` or longer than twenty times that.
POLLS_PER_WAIT = 20


@dataclass(frozen=True)
class StartedResource:
    """A resource of any status."""

    arn: str
    created: bool
    """Whether this call created it. What a lost answer hides is adopted, as from another run."""
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
class Waiting:
    """Looks at resources through a client, and waits for them."""

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

    def for_data(self, version: str) -> Self:
        """The same, which also tags what it creates with the version of the data."""
        return replace(self, tags={**self.tags, DATA_VERSION_TAG: version})

    def with_deadline(self, seconds: float) -> Self:
        """The same, which waits from now on no longer than this, or than this one would."""
        now = time.monotonic()
        seconds_left = self.started + self.deadline_seconds - now
        return replace(self, started=now, deadline_seconds=min(seconds, seconds_left))

    def tags_of(self, arn: str) -> dict[str, str]:
        """The tags of the resource."""
        tags = self.client.list_tags_for_resource(resourceArn=arn)["tags"]
        return {tag["tagKey"]: tag["tagValue"] for tag in tags}

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

    def wait_until_all_ready(
        self, kind: ResourceKind, started: Sequence[StartedResource]
    ) -> list[ReadyResource]:
        """As `wait_until_ready`, for several that were started together."""
        return [self.wait_until_ready(kind, resource) for resource in started]

    def wait_until_ready(self, kind: ResourceKind, started: StartedResource) -> ReadyResource:
        """Wait until it is ACTIVE, or a data deletion job is COMPLETED.

        Raises PersonalizeError with Personalize's reason if it failed, or if the deadline passed; a
        later run then resumes waiting. A run that is interrupted leaves the work to that run too.
        """
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
                raise make_failure_error(kind, started.arn, description)
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
        for _ in self.attempts_until_shown(waiting_for):
            description = self.describe_if_shown(kind, arn)
            if description is not None:
                return description
        raise PersonalizeError(
            f"Personalize does not know the {kind.label} {arn}, though it was there: somebody may"
            " have deleted it. Run again: it creates what is missing"
        )

    def attempts_until_shown(self, waiting_for: str) -> Iterator[None]:
        """Yield for each attempt to see what was created a moment ago."""
        yield
        for pause in PAUSES_UNTIL_SHOWN:
            self.log.info(waiting_for)
            self.sleep(pause * self.poll_seconds, waiting_for)
            yield

    def describe_if_shown(self, kind: ResourceKind, arn: str) -> Description | None:
        try:
            return self.describe(kind, arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != NOT_FOUND:
                raise
            return None

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


def _describe_time_left(seconds: float, usual: float | None) -> str:
    if usual is None:
        return ""
    time_left = f", about {usual - seconds:.0f} s left" if seconds < usual else ""
    return f"; the last one took {usual:.0f} s{time_left}"
