"""Answers of Personalize that are lost, and lists that lag behind: nothing is created twice."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize import resource_kinds
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    BATCH_SEGMENT_JOB,
    DATASET,
    DATASET_GROUP,
    FILTER,
    IMPORT_JOB,
    SCHEMA,
    SOLUTION_VERSION,
    ResourceKind,
)

ACCOUNT = "arn:aws:personalize:eu-west-1:123456789012"
GROUP = f"{ACCOUNT}:dataset-group/shop"
SOLUTION = f"{ACCOUNT}:solution/shop"
VERSION = f"{SOLUTION}/0123abcd"
RECIPE = "arn:aws:personalize:::recipe/aws-user-personalization"
# Each numbered kind with its parent, and the beginning of its ARNs.
NUMBERED: dict[ResourceKind, tuple[dict[str, str], str]] = {
    IMPORT_JOB: (
        {"datasetArn": f"{ACCOUNT}:dataset/shop/ITEMS"},
        ":dataset-import-job/",
    ),
    SOLUTION_VERSION: ({"solutionArn": SOLUTION}, ":solution/shop/"),
    BATCH_INFERENCE_JOB: ({"solutionVersionArn": VERSION}, ":batch-inference-job/"),
    BATCH_SEGMENT_JOB: ({"solutionVersionArn": VERSION}, ":batch-segment-job/"),
}
# Each named kind with List's filter and Create's arguments.
IN_GROUP = {"datasetGroupArn": GROUP}
NAMED: dict[ResourceKind, tuple[dict[str, str], dict[str, str]]] = {
    DATASET_GROUP: ({}, {}),
    SCHEMA: ({}, {"schema": "{}"}),
    DATASET: (IN_GROUP, {**IN_GROUP, "datasetType": "ITEMS"}),
    resource_kinds.SOLUTION: (IN_GROUP, {"recipeArn": RECIPE, **IN_GROUP}),
    FILTER: (IN_GROUP, {"filterExpression": "EXCLUDE", **IN_GROUP}),
}
KINDS = {kind.snake: kind for kind in (*NUMBERED, *NAMED)}
TAGS = {api.PIPELINE_TAG: "shop", api.STORAGE_TAG: "s3://shop/"}
POLL_SECONDS = 30

numbered_kinds = pytest.mark.parametrize("kind", NUMBERED, ids=lambda kind: kind.snake)
named_kinds = pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.snake)


class Clock:
    """The seconds that have passed, which only pauses add to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    @property
    def at_personalize(self) -> datetime:
        """The time there, years before this machine's."""
        return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


class LaggingPersonalize:
    """A client of a Personalize that loses answers, and whose answers lag behind."""

    meta = SimpleNamespace(partition="aws", region_name="eu-west-1")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lists_that_lag = 0
        """How many of the next lists show nothing that is in `hidden_arns`."""
        self.hidden_arns: set[str] = set()
        self.missing_descriptions = 0
        """How many of the next Describes find nothing."""
        self.lost_answers = 0
        """How many of the next answers to Create are lost. botocore repeats the request."""
        self.connection_errors = 0
        """How many are lost for good."""
        self.resources: dict[str, dict[str, Any]] = {}
        self.kinds: dict[str, ResourceKind] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.calls: Counter[str] = Counter()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        verb, _, snake = operation.partition("_")
        return partial(getattr(self, f"_{verb}"), KINDS[snake])

    def _create(self, kind: ResourceKind, tags: Any = (), **arguments: Any) -> dict[str, Any]:
        self.calls["create"] += 1
        arn = self._make_arn(kind, arguments)
        if arn in self.resources:
            raise self._make_error("ResourceAlreadyExistsException")
        self.add(kind, arn, arguments, {tag["tagKey"]: tag["tagValue"] for tag in tags})
        if self.connection_errors:
            self.connection_errors -= 1
            raise ReadTimeoutError(endpoint_url="https://personalize")
        if self.lost_answers:
            self.lost_answers -= 1
            self.clock.seconds += 1
            raise self._make_error("ResourceAlreadyExistsException")
        return {kind.arn: arn}

    def add(
        self,
        kind: ResourceKind,
        arn: str,
        arguments: Mapping[str, Any],
        tags: Mapping[str, str],
        status: str = "ACTIVE",
    ) -> None:
        """Add a resource, which the lists that lag do not show."""
        self.kinds[arn] = kind
        self.hidden_arns.add(arn)
        self.tags[arn] = dict(tags)
        self.resources[arn] = {
            **arguments,
            kind.arn: arn,
            "status": status,
            "creationDateTime": self.clock.at_personalize,
        }

    def _make_arn(self, kind: ResourceKind, arguments: Mapping[str, Any]) -> str:
        name = arguments[kind.name]
        if kind is SOLUTION_VERSION:
            parent = arguments["solutionArn"]
            for arn, resource in self.resources.items():
                if arn.startswith(f"{parent}/") and resource["name"] == name:
                    return arn
            return f"{parent}/{len(self.resources):08x}"
        if kind is DATASET:
            return f"{ACCOUNT}:dataset/shop/{arguments['datasetType']}"
        return f"{ACCOUNT}:{kind.snake.replace('_', '-')}/{name}"

    def _make_error(self, code: str) -> ClientError:
        now = format_datetime(self.clock.at_personalize, usegmt=True)
        metadata: Any = {"HTTPHeaders": {"date": now}}
        error: Any = {"Code": code, "Message": "from the test"}
        return ClientError({"Error": error, "ResponseMetadata": metadata}, "Operation")

    def _describe(self, kind: ResourceKind, **arguments: str) -> dict[str, Any]:
        self.calls["describe"] += 1
        arn = arguments[kind.arn]
        if self.missing_descriptions:
            self.missing_descriptions -= 1
            raise self._make_error("ResourceNotFoundException")
        if arn not in self.resources:
            raise self._make_error("ResourceNotFoundException")
        return {kind.member: self.resources[arn]}

    def get_paginator(self, operation: str) -> Any:
        kind = KINDS[operation.removeprefix("list_").removesuffix("s")]
        return SimpleNamespace(paginate=lambda **within: [{kind.members: self._list(kind, within)}])

    def _list(self, kind: ResourceKind, within: Mapping[str, str]) -> list[dict[str, Any]]:
        self.calls["list"] += 1
        hidden = self.hidden_arns if self.lists_that_lag else set()
        if self.hidden_arns and self.lists_that_lag:
            self.lists_that_lag -= 1
        summaries = []
        for arn, resource in self.resources.items():
            is_inside = all(resource.get(member) == parent for member, parent in within.items())
            if self.kinds[arn] is kind and is_inside and arn not in hidden:
                summary = dict(resource)
                if kind is SOLUTION_VERSION:
                    del summary["name"]
                summaries.append(summary)
        return summaries

    def list_tags_for_resource(self, *, resourceArn: str) -> dict[str, Any]:  # noqa: N803
        tags = self.tags[resourceArn].items()
        return {"tags": [{"tagKey": key, "tagValue": value} for key, value in tags]}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", lambda: clock.seconds)
    monkeypatch.setattr("time.sleep", clock.sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
    return clock


@pytest.fixture
def client(clock: Clock) -> LaggingPersonalize:
    return LaggingPersonalize(clock)


@pytest.fixture
def ensure(client: LaggingPersonalize) -> api.Ensure:
    return api.Ensure(
        client=client,  # type: ignore[arg-type]
        log=logging.getLogger("test"),
        tags=TAGS,
        poll_seconds=POLL_SECONDS,
        busy_seconds=300,
        heartbeat_seconds=60,
        deadline_seconds=10_000,
        role_arn="arn:aws:iam::123456789012:role/Personalize",
    )


def start(ensure: api.Ensure, kind: ResourceKind, *, usable: bool = True) -> api.StartedResource:
    """Start a numbered resource. usable: whether one that exists can serve."""
    parent, _ = NUMBERED[kind]
    return ensure.start_numbered(
        kind,
        "shop-ab12",
        lambda name: parent,
        lambda description: usable,
        among_others=False,
        **parent,
    )


def start_named(ensure: api.Ensure, kind: ResourceKind) -> api.StartedResource:
    within, arguments = NAMED[kind]
    return ensure.start_named(kind, "shop", arguments, **within)


@pytest.mark.parametrize("lists_that_lag", range(4))
@numbered_kinds
def test_a_job_whose_answer_is_lost_is_adopted_as_created_by_this_run(
    kind: ResourceKind,
    lists_that_lag: int,
    clock: Clock,
    client: LaggingPersonalize,
    ensure: api.Ensure,
) -> None:
    client.lost_answers, client.lists_that_lag = 1, lists_that_lag
    resource = start(ensure, kind)
    assert resource.created
    assert list(client.resources) == [resource.arn]
    assert NUMBERED[kind][1] in resource.arn
    if kind is not SOLUTION_VERSION:
        assert clock.seconds == 1  # Its ARN follows from its name, so no list is waited for.
    assert client.calls["create"] == 1
    assert ensure.wait_until_ready(kind, resource).created
    client.lists_that_lag = 0  # The next run finds it.
    assert start(ensure, kind) == api.StartedResource(resource.arn, created=False)


@pytest.mark.parametrize("lists_that_lag", range(4))
@named_kinds
def test_a_named_resource_whose_answer_is_lost_is_adopted_as_created_by_this_run(
    kind: ResourceKind,
    lists_that_lag: int,
    clock: Clock,
    client: LaggingPersonalize,
    ensure: api.Ensure,
) -> None:
    client.lost_answers, client.lists_that_lag = 1, lists_that_lag
    resource = start_named(ensure, kind)
    assert resource.created
    assert list(client.resources) == [resource.arn]
    assert clock.seconds == 1
    assert client.calls["create"] == 1
    client.lists_that_lag = 0
    assert start_named(ensure, kind) == api.StartedResource(resource.arn, created=False)


@pytest.mark.parametrize("tags", [TAGS, {**TAGS, api.STORAGE_TAG: "s3://other/"}])
@numbered_kinds
def test_what_another_run_created_and_lists_do_not_show_is_adopted(
    kind: ResourceKind,
    tags: dict[str, str],
    clock: Clock,
    client: LaggingPersonalize,
    ensure: api.Ensure,
) -> None:
    """Its cost is the other run's: it is older than the request, or has other tags."""
    parent, beginning = NUMBERED[kind]
    ending = "00000001" if kind is SOLUTION_VERSION else "shop-ab12-1"
    arn = f"{ACCOUNT}{beginning}{ending}"
    client.add(kind, arn, {kind.name: "shop-ab12-1", **parent}, tags)
    if tags == TAGS:
        clock.sleep(10)
    client.lists_that_lag = 3
    assert start(ensure, kind) == api.StartedResource(arn, created=False)
    assert list(client.resources) == [arn]


@pytest.mark.parametrize("tags", [TAGS, {**TAGS, api.STORAGE_TAG: "s3://other/"}])
@named_kinds
def test_a_named_resource_of_another_run_is_adopted(
    kind: ResourceKind,
    tags: dict[str, str],
    clock: Clock,
    client: LaggingPersonalize,
    ensure: api.Ensure,
) -> None:
    start_named(ensure, kind)
    (arn,) = client.resources
    client.tags[arn] = tags
    clock.sleep(10)
    client.lists_that_lag = 3
    assert start_named(ensure, kind) == api.StartedResource(arn, created=False)
    assert list(client.resources) == [arn]


def test_a_response_without_a_date_leaves_the_clock_of_this_machine(
    client: LaggingPersonalize, ensure: api.Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_error(code: str) -> ClientError:
        return ClientError({"Error": {"Code": code, "Message": "from the test"}}, "Operation")

    monkeypatch.setattr(client, "_make_error", make_error)
    client.lost_answers, client.lists_that_lag = 1, 3
    # The resource seems years old.
    assert start(ensure, IMPORT_JOB).created is False
    assert len(client.resources) == 1


@pytest.mark.parametrize("kind", [IMPORT_JOB, BATCH_INFERENCE_JOB])
def test_a_name_taken_under_another_parent_leaves_the_next_number_at_once(
    kind: ResourceKind, clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    (member,) = NUMBERED[kind][0]
    arn = f"{ACCOUNT}{NUMBERED[kind][1]}shop-ab12-1"
    client.add(kind, arn, {kind.name: "shop-ab12-1", member: f"{ACCOUNT}:other"}, TAGS)
    assert start(ensure, kind).arn == arn.replace("ab12-1", "ab12-2")
    assert clock.seconds == 0


def test_a_name_taken_under_another_parent_is_reported_at_once(
    clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    other = {"name": "shop", "datasetGroupArn": f"{GROUP}-2"}
    client.add(FILTER, f"{ACCOUNT}:filter/shop", other, TAGS)
    with pytest.raises(PersonalizeError, match="Rename the pipeline, or delete that filter"):
        start_named(ensure, FILTER)
    assert clock.seconds == 0
    assert client.calls["create"] == 1


@pytest.mark.parametrize(("usable", "status"), [(False, "ACTIVE"), (True, "CREATE FAILED")])
def test_a_job_that_cannot_serve_leaves_the_next_number(
    usable: bool, status: str, clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    kind, (parent, beginning) = IMPORT_JOB, NUMBERED[IMPORT_JOB]
    arn = f"{ACCOUNT}{beginning}shop-ab12-1"
    client.add(kind, arn, {kind.name: "shop-ab12-1", **parent}, TAGS, status)
    clock.sleep(10)
    client.lists_that_lag = 1
    resource = start(ensure, kind, usable=usable)
    assert resource.created
    assert list(client.resources) == [arn, resource.arn]


def test_a_rejected_job_of_a_moment_ago_is_not_adopted(
    client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    """No time has passed since, so its age does not tell it from what this call creates."""
    rejected = start(ensure, BATCH_INFERENCE_JOB)
    client.lists_that_lag = 3
    assert start(ensure, BATCH_INFERENCE_JOB, usable=False).arn != rejected.arn
    assert len(client.resources) == 2


def test_a_job_that_failed_before_its_answer_arrived_is_reported(
    client: LaggingPersonalize, ensure: api.Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one would fail, and cost, in the same way."""
    monkeypatch.setattr(client, "add", partial(client.add, status="CREATE FAILED"))
    client.lost_answers, client.lists_that_lag = 1, 3
    resource = start(ensure, IMPORT_JOB)
    with pytest.raises(PersonalizeError, match="dataset import job failed"):
        ensure.wait_until_ready(IMPORT_JOB, resource)


def test_no_number_is_passed_over_that_a_run_takes_to_which_less_is_shown(
    clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    kind, (parent, beginning) = IMPORT_JOB, NUMBERED[IMPORT_JOB]
    first, second = (f"{ACCOUNT}{beginning}shop-ab12-{number}" for number in (1, 2))
    client.add(kind, first, {kind.name: "shop-ab12-1", **parent}, TAGS, "CREATE FAILED")
    clock.sleep(10)
    # It is shown after its name was found to be taken.
    client.lists_that_lag = 1
    assert start(ensure, kind) == api.StartedResource(second, created=True)
    clock.sleep(10)
    client.hidden_arns.remove(first)
    client.lists_that_lag = 1
    assert start(ensure, kind) == api.StartedResource(second, created=False)
    assert list(client.resources) == [first, second]


@numbered_kinds
def test_what_failed_is_started_once_more_though_lists_do_not_show_it(
    kind: ResourceKind,
    client: LaggingPersonalize,
    ensure: api.Ensure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No time has passed since, so its age does not tell it from what the second start creates."""
    statuses = ["CREATE FAILED", "ACTIVE"]
    add = client.add

    def add_with_status(kind: ResourceKind, arn: str, arguments: Any, tags: Any) -> None:
        add(kind, arn, arguments, tags, statuses.pop(0))

    monkeypatch.setattr(client, "add", add_with_status)
    client.lists_that_lag = 3
    [ready] = ensure.start_and_wait(kind, lambda: [start(ensure, kind)])
    assert (ready.created, ready.description["status"]) == (True, "ACTIVE")
    assert [*client.resources][1:] == [ready.arn]


@numbered_kinds
def test_what_fails_twice_is_not_started_a_third_time(
    kind: ResourceKind,
    client: LaggingPersonalize,
    ensure: api.Ensure,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "add", partial(client.add, status="CREATE FAILED"))
    with pytest.raises(PersonalizeError, match=f"{kind.label} failed"):
        ensure.start_and_wait(kind, lambda: [start(ensure, kind)])
    assert len(client.resources) == 2


def test_a_name_that_nothing_shows_is_looked_for_with_growing_pauses(
    clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    client.lost_answers, client.lists_that_lag, client.missing_descriptions = 1, 99, 99
    resource = start(ensure, IMPORT_JOB)
    assert resource.arn.endswith("shop-ab12-2")
    attempts = 1 + len(api.PAUSES_UNTIL_SHOWN)
    assert client.calls == {"create": 2, "list": 2 + attempts, "describe": attempts}
    assert sum(api.PAUSES_UNTIL_SHOWN) * POLL_SECONDS == pytest.approx(clock.seconds - 1)
    assert 180 < clock.seconds < 300


def test_a_named_resource_that_nothing_shows_is_reported(
    clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    client.lost_answers, client.lists_that_lag, client.missing_descriptions = 1, 99, 99
    with pytest.raises(PersonalizeError, match="already has a dataset group named shop, but"):
        start_named(ensure, DATASET_GROUP)
    assert client.calls["create"] == api.MAX_COLLISIONS
    assert clock.seconds < 600


def test_a_name_that_is_being_deleted_is_waited_for(
    client: LaggingPersonalize, ensure: api.Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = f"{ACCOUNT}:dataset-group/shop"
    client.add(DATASET_GROUP, arn, {"name": "shop"}, TAGS, "DELETE PENDING")
    client.lists_that_lag = 1

    def delete(seconds: float) -> None:
        client.resources.clear()

    monkeypatch.setattr("time.sleep", delete)
    assert start_named(ensure, DATASET_GROUP) == api.StartedResource(arn, created=True)


@numbered_kinds
def test_after_a_connection_error_the_next_try_finds_what_was_created(
    kind: ResourceKind, clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    client.connection_errors = 1
    with pytest.raises(ReadTimeoutError):
        start(ensure, kind)
    clock.sleep(10)
    client.lists_that_lag = 3
    assert start(ensure, kind).arn == next(iter(client.resources))
    assert len(client.resources) == 1


@numbered_kinds
def test_what_this_run_created_is_waited_for_until_it_is_shown(
    kind: ResourceKind, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    resource = start(ensure, kind)
    client.missing_descriptions = 3
    assert ensure.wait_until_ready(kind, resource).arn == resource.arn


@numbered_kinds
def test_what_is_listed_before_it_is_shown_is_adopted(
    kind: ResourceKind, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    arn = start(ensure, kind).arn
    client.missing_descriptions = 3
    assert start(ensure, kind) == api.StartedResource(arn, created=False)


def test_what_is_never_shown_is_reported(
    clock: Clock, client: LaggingPersonalize, ensure: api.Ensure
) -> None:
    resource = start(ensure, IMPORT_JOB)
    client.resources.clear()
    error = re.escape(f"does not know the dataset import job {resource.arn}")
    with pytest.raises(PersonalizeError, match=f"{error}.* Run again"):
        ensure.wait_until_ready(IMPORT_JOB, resource)
    assert clock.seconds == pytest.approx(sum(api.PAUSES_UNTIL_SHOWN) * POLL_SECONDS)
