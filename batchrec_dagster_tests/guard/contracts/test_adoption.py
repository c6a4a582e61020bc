"""Tests that a run creates each resource in Personalize once, and waits for it.

The resources that cost money are imports, trainings and jobs. Answers get lost, lists lag behind,
requests are throttled, quotas are reached, and jobs fail.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError

from batchrec_dagster_tests.guard.faults.personalize import (
    HARD_QUOTA,
    NO_ACCESS,
    SOFT_QUOTA,
    BusyParents,
    FailingResources,
    LaggingLists,
    LateDescribes,
    LostAnswers,
    PendingStatuses,
    ReachedQuotas,
    Throttling,
)
from batchrec_dagster_tests.guard.faults.personalize_requests import Misbehaviour
from batchrec_dagster_tests.guard.faults.worst_aws import WorstAws, misbehave
from batchrec_dagster_tests.guard.seams.personalize import PersonalizeFailure, Resources
from batchrec_dagster_tests.guard.servers.personalize import RECIPE, ROLE, SEEN, Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows, write_schema

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

pytestmark = pytest.mark.slow

ARN_PREFIX = "arn:aws:personalize:us-east-1:000000000000:"
GROUP = f"{ARN_PREFIX}dataset-group/films"
DATASET = f"{ARN_PREFIX}dataset/films/INTERACTIONS"
NAMED = ("dataset group", "schema", "dataset", "solution", "filter")
NUMBERED = (
    *("dataset import job", "solution version"),
    *("batch inference job", "batch segment job"),
)
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """A resource that a run requests."""

    kind: str
    params: Params
    parent: Mapping[str, str]

    def start(self, client: PersonalizeClient, name: str = "shop", **options: Any) -> str:
        return Resources(client).start(self.kind, name, self.params, self.parent, **options)

    def ensure(self, client: PersonalizeClient, deadline: float = 60) -> str:
        resources = Resources(client, deadline_seconds=deadline)
        return resources.ensure(self.kind, "shop", self.params, self.parent)

    @property
    def create(self) -> str:
        """The operation that creates the resource."""
        return "Create" + self.kind.title().replace(" ", "")


@dataclass(frozen=True)
class Prepared:
    """A Personalize with the parents of all kinds: data and a solution version of each recipe."""

    root: Path
    versions: Mapping[str, str]

    def copy(self, folder: Path) -> Local:
        shutil.copytree(self.root, folder, dirs_exist_ok=True)
        return Local(folder)

    def want(self, kind: str) -> Wanted:
        in_group = {"datasetGroupArn": GROUP}
        solution = {"solutionArn": self.versions["items"].rpartition("/")[0]}
        parents: dict[str, tuple[Params, Mapping[str, str]]] = {
            "dataset group": ({}, {}),
            "schema": (
                {"schema": write_schema("Items", {"name": "ITEM_ID"}, {"name": "KIND"})},
                {},
            ),
            "dataset": (
                {"datasetType": "ITEMS", "schemaArn": f"{ARN_PREFIX}schema/items"},
                in_group,
            ),
            "solution": ({"recipeArn": f"{RECIPE}aws-sims"}, in_group),
            "filter": ({"filterExpression": SEEN}, in_group),
            "dataset import job": (_import_params(), {"datasetArn": DATASET}),
            "solution version": ({}, solution),
            "batch inference job": self._job("items", "users.json"),
            "batch segment job": self._job("segments", "items.json"),
        }
        params, parent = parents[kind]
        return Wanted(kind, {**params, **parent}, parent)

    def _job(self, version: str, file: str) -> tuple[Params, Mapping[str, str]]:
        params = {
            "roleArn": ROLE,
            "jobInput": {"s3DataSource": {"path": f"s3://data/{file}"}},
            "jobOutput": {"s3DataDestination": {"path": "s3://data/out/"}},
        }
        return params, {"solutionVersionArn": self.versions[version]}


def _import_params() -> Params:
    return {"roleArn": ROLE, "dataSource": {"dataLocation": "s3://data/interactions.csv"}}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    local = Local(tmp_path_factory.mktemp("prepared"))
    group, _ = local.import_rows(build_taste_rows())
    versions = {
        name: local.train_version(group, recipe, name=name)
        for name, recipe in (
            ("items", "aws-user-personalization"),
            ("segments", "aws-item-affinity"),
        )
    }
    items = write_schema("Items", {"name": "ITEM_ID"}, {"name": "KIND"})
    local.client.create_schema(name="items", schema=items)
    local.store.put("s3://data/users.json", b'{"userId": "u1"}\n')
    local.store.put("s3://data/items.json", b'{"itemId": "i1"}\n')
    return Prepared(local.root, versions)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten botocore's pauses before repeated requests, which take seconds."""
    sleep = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.002)))


def open_fake(
    prepared: Prepared, folder: Path, *misbehaviours: Misbehaviour, attempts: int = 1
) -> tuple[PersonalizeClient, WorstAws]:
    """Return a client of a misbehaving copy that does not run the requested jobs."""
    local = prepared.copy(folder)
    return misbehave(local.open_idle_client(), *misbehaviours, attempts=attempts)


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_existing_resources_are_adopted_and_tagged(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    client, aws = open_fake(prepared, tmp_path)
    wanted = prepared.want(kind)
    arn = wanted.start(client)
    assert wanted.start(client) == arn
    assert aws.creates_by_operation() == {wanted.create: 1}
    if kind != "schema":  # This resource cannot have tags.
        tags = client.list_tags_for_resource(resourceArn=arn)["tags"]
        assert {"tagKey": "batchrec:pipeline", "tagValue": "shop"} in tags


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_a_resource_is_adopted_if_the_answer_to_its_creation_was_lost(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    lost = LostAnswers(wanted.create)
    lists = LaggingLists(random.Random(0))
    # Lists lag behind creation, whether or not the answer arrives.
    client, aws = open_fake(prepared, tmp_path, lists, lost, attempts=3)
    arn = wanted.start(client)
    assert lost.count == 1
    assert wanted.start(client) == arn
    assert aws.creates_by_operation() == {wanted.create: 1}


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_after_a_connection_that_broke_the_next_run_finds_what_was_created(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    misbehaviours = LostAnswers(wanted.create), LaggingLists(random.Random(0)), LateDescribes(2)
    client, aws = open_fake(prepared, tmp_path, *misbehaviours)
    with pytest.raises(ConnectionClosedError):
        wanted.start(client)
    wanted.start(client)
    assert aws.creates_by_operation() == {wanted.create: 1}


@pytest.mark.parametrize("kind", [*NAMED, *NUMBERED])
def test_another_runs_resource_is_adopted_before_lists_show_it(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    client, aws = open_fake(prepared, tmp_path, LaggingLists(random.Random(0)))
    assert wanted.start(client) == wanted.start(client)
    assert aws.creates_by_operation() == {wanted.create: 1}


@pytest.mark.parametrize("kind", NUMBERED)
def test_other_data_or_a_job_that_cannot_serve_start_another(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    client, aws = open_fake(prepared, tmp_path)
    arns = [
        wanted.start(client, "shop-a"),
        wanted.start(client, "shop-b"),
        # A job that another run has replaced is not adopted.
        wanted.start(client, "shop-a"),
        wanted.start(client, "shop-a", is_usable=False),
    ]
    assert len(set(arns)) == 4
    assert sum(aws.creates.values()) == 4


@pytest.mark.parametrize("kind", ["dataset import job", "batch inference job"])
def test_a_job_that_failed_is_started_once_more(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    failing = FailingResources({wanted.create: ["out of memory"]})
    client, aws = misbehave(prepared.copy(tmp_path).client, failing)
    arn = wanted.ensure(client)
    assert arn not in failing.failed
    assert aws.creates_by_operation() == {wanted.create: 2}
    assert wanted.ensure(client) == arn


@pytest.mark.parametrize("kind", NUMBERED)
def test_a_job_that_fails_twice_is_reported_with_personalizes_reason(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    failing = FailingResources({wanted.create: ["out of memory"] * 5})
    client, aws = misbehave(prepared.copy(tmp_path).client, failing)
    with pytest.raises(PersonalizeFailure, match="out of memory") as error:
        wanted.ensure(client)
    assert any(arn in str(error.value) for arn in failing.failed)
    assert aws.creates_by_operation() == {wanted.create: 2}
    # The next run does not adopt failed resources.
    failing.reasons.clear()
    assert wanted.ensure(client) not in failing.failed


@pytest.mark.parametrize(
    "reason",
    [
        NO_ACCESS,
        "Access Denied (Service: Amazon S3; Status Code: 403; Error Code: AccessDenied)",
        "The specified bucket does not exist",
        "NoSuchKey: the specified key does not exist.",
        "Invalid Data location.",
    ],
)
@pytest.mark.parametrize("kind", NUMBERED)
def test_a_job_is_not_started_once_more_if_its_failure_would_repeat(
    prepared: Prepared, tmp_path: Path, kind: str, reason: str
) -> None:
    wanted = prepared.want(kind)
    failing = FailingResources({wanted.create: [reason]})
    client, aws = misbehave(prepared.copy(tmp_path).client, failing)
    with pytest.raises(PersonalizeFailure) as error:
        wanted.ensure(client)
    assert reason in str(error.value)
    assert aws.creates_by_operation() == {wanted.create: 1}
    # Once the cause is mended, the next run starts the job again.
    assert wanted.ensure(client) not in failing.failed
    assert aws.creates_by_operation() == {wanted.create: 2}


@pytest.mark.parametrize("kind", NUMBERED)
def test_after_a_failed_job_that_lists_do_not_show_yet_nothing_is_created_twice(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted, local = prepared.want(kind), prepared.copy(tmp_path)
    failing = FailingResources({wanted.create: ["out of memory"] * 2})
    with pytest.raises(PersonalizeFailure):
        wanted.ensure(misbehave(local.client, failing)[0])
    lists = LaggingLists(random.Random(0))
    lists.lists_without = {max(failing.failed): 1}
    client, aws = misbehave(local.client, failing, lists)
    assert wanted.ensure(client) == wanted.ensure(client)
    assert aws.creates_by_operation() == {wanted.create: 1}


def test_a_role_that_may_not_read_is_named_with_what_to_allow(
    prepared: Prepared, tmp_path: Path
) -> None:
    wanted = prepared.want("dataset import job")
    failing = FailingResources({wanted.create: [NO_ACCESS] * 2})
    client, _ = misbehave(prepared.copy(tmp_path).client, failing)
    with pytest.raises(PersonalizeFailure) as error:
        wanted.ensure(client)
    for words in ("s3:GetObject", "s3://data/interactions.csv", ROLE):
        assert words in str(error.value)


@pytest.mark.parametrize("kind", ["solution version", "batch inference job"])
def test_a_run_that_is_stopped_leaves_its_work_to_be_adopted_by_the_next_one(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    wanted = prepared.want(kind)
    client, aws = misbehave(prepared.copy(tmp_path).client, PendingStatuses())
    with monkeypatch.context() as signals:
        signals.setattr("time.sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            wanted.ensure(client)
    # Paid work is not stopped.
    assert not [operation for operation in aws.requests if operation.startswith("Stop")]
    wanted.ensure(client)
    assert aws.creates_by_operation() == {wanted.create: 1}


def test_it_waits_through_any_status_until_the_resource_is_ready(
    prepared: Prepared, tmp_path: Path
) -> None:
    statuses = PendingStatuses(("CREATE PENDING", "CREATE IN_PROGRESS", "CREATE SOMETHING_NEW"))
    client, _ = misbehave(prepared.copy(tmp_path).client, statuses, LateDescribes(3))
    arn = prepared.want("dataset group").ensure(client)
    assert statuses.described[arn] == len(statuses.statuses)


@pytest.mark.parametrize("kind", ["dataset group", "dataset import job"])
def test_a_resource_that_is_never_ready_ends_the_run_and_is_named(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    client, aws = open_fake(prepared, tmp_path)
    wanted = prepared.want(kind)
    with pytest.raises(PersonalizeFailure) as error:
        wanted.ensure(client, deadline=0.1)
    assert wanted.start(client) in str(error.value)
    assert aws.creates_by_operation() == {wanted.create: 1}


def test_the_deadline_is_one_for_all_that_a_run_waits_for(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses = PendingStatuses(("CREATE PENDING", "CREATE IN_PROGRESS"))
    client, _ = misbehave(prepared.copy(tmp_path).client, statuses)
    resources = Resources(client, deadline_seconds=60)
    first, second = prepared.want("dataset group"), prepared.want("dataset")
    resources.ensure(first.kind, "shop", first.params, first.parent)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 60)
    with pytest.raises(PersonalizeFailure, match="hours"):
        resources.ensure(second.kind, "shop", second.params, second.parent)


@pytest.mark.parametrize("kind", NUMBERED)
def test_jobs_in_progress_and_busy_parents_are_waited_for(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    quota, busy = ReachedQuotas({wanted.create: SOFT_QUOTA}), BusyParents(wanted.create)
    client, aws = open_fake(prepared, tmp_path, quota, busy)
    wanted.start(client)
    assert aws.requests[wanted.create] == 4
    assert aws.creates_by_operation() == {wanted.create: 1}
    assert (quota.count, busy.count) == (1, 2)


@pytest.mark.parametrize("kind", NAMED)
def test_a_quota_that_no_waiting_changes_fails_at_once(
    prepared: Prepared, tmp_path: Path, kind: str
) -> None:
    wanted = prepared.want(kind)
    quota = ReachedQuotas({wanted.create: HARD_QUOTA})
    client, aws = open_fake(prepared, tmp_path, quota)
    with pytest.raises(PersonalizeFailure, match=HARD_QUOTA):
        wanted.start(client)
    assert aws.requests[wanted.create] == 1


def test_throttled_requests_are_sent_again(prepared: Prepared, tmp_path: Path) -> None:
    throttling = Throttling(random.Random(0), share=0.5)
    client, aws = open_fake(prepared, tmp_path, throttling, attempts=20)
    for kind in (*NAMED, *NUMBERED):
        prepared.want(kind).start(client)
    assert throttling.count > 5
    assert set(aws.creates_by_operation().values()) == {1}


def test_a_name_that_is_taken_in_another_group_is_reported(
    prepared: Prepared, tmp_path: Path
) -> None:
    local = prepared.copy(tmp_path)
    other = local.create_group("other")
    local.create_dataset(other, name="other")
    local.create_filter(other, name="shop")
    client, aws = misbehave(local.client)
    with pytest.raises(PersonalizeFailure, match="filter named shop"):
        prepared.want("filter").start(client)
    assert not aws.creates


def test_a_name_that_a_job_of_another_dataset_has_leaves_the_next_one(
    prepared: Prepared, tmp_path: Path
) -> None:
    wanted = prepared.want("dataset import job")
    calm = prepared.copy(tmp_path / "calm")
    name = wanted.start(calm.client).rpartition("/")[2]
    local = prepared.copy(tmp_path / "taken")
    dataset = local.create_dataset(local.create_group("other"), name="other")
    local.start_import(dataset, "s3://data/interactions.csv", name)
    client, aws = misbehave(local.client)
    assert wanted.start(client).rpartition("/")[2] != name
    assert aws.creates_by_operation() == {wanted.create: 1}
