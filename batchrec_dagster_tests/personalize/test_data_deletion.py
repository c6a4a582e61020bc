"""Users are erased from a dataset group, over HTTP, whatever happens to the caller or the job."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from batchrec_dagster.local_personalize.api.server import make_application
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.personalize import data_deletion
from batchrec_dagster.personalize.data_deletion import (
    DeletionResult,
    erase_users,
    erase_users_from_groups,
    find_dataset_groups,
    format_input,
)
from batchrec_dagster.personalize.ensure import PIPELINE_TAG, STORAGE_TAG, Ensure
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.faults.personalize import (
    FailingResources,
    LaggingLists,
    LateDescribes,
    LostAnswers,
    Misbehaviour,
    PendingStatuses,
    ReachedQuotas,
    WorstAws,
    worst_aws,
)
from batchrec_dagster_tests.guard.servers.personalize import (
    ROLE,
    Local,
    build_taste_rows,
    encode_csv,
)
from batchrec_dagster_tests.web.test_guard import serve

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

GROUP = "shop-0123abcd"
TAGS = {PIPELINE_TAG: "shop", STORAGE_TAG: "s3://data"}
FOLDER = "s3://data/shop/erasures/"
USERS = ["u1", "u2", "nobody"]
RECORDS = sum(user in USERS for user, *_ in build_taste_rows())


@pytest.fixture
def shop(tmp_path: Path) -> Local:
    """A local Personalize with data in the dataset group of the pipeline `shop`."""
    local = Local(tmp_path)
    local.store.put("s3://data/rows.csv", encode_csv(build_taste_rows()))
    group = local.create_group(GROUP)
    local.client.tag_resource(
        resourceArn=group,
        tags=[{"tagKey": key, "tagValue": value} for key, value in TAGS.items()],
    )
    dataset = local.create_dataset(group)
    local.wait_until_active(local.start_import(dataset, "s3://data/rows.csv"))
    return local


def make_ensure(client: PersonalizeClient) -> Ensure:
    return Ensure(
        client=client,
        log=logging.getLogger("test"),
        tags=TAGS,
        poll_seconds=0.02,
        busy_seconds=0.02,
        heartbeat_seconds=60,
        deadline_seconds=120,
        role_arn=ROLE,
    )


def erase(shop: Local, client: PersonalizeClient | None = None, **options: Any) -> DeletionResult:
    ensure = make_ensure(client or shop.client)
    (group,) = find_dataset_groups(ensure, "shop")
    options = {"request": "4f2a", **options}
    return erase_users(ensure, shop.store, FOLDER, group, USERS, **options)


@contextmanager
def client_before(
    shop: Local, *misbehaviours: Misbehaviour, attempts: int = 1
) -> Iterator[tuple[PersonalizeClient, WorstAws]]:
    """A client over HTTP of a Personalize that misbehaves.

    attempts: how often it sends a request at most.
    """
    service = LocalPersonalize(shop.root / "home", shop.store)
    with (
        serve(make_application(service)) as (host, port),
        worst_aws(f"http://{host}:{port}", *misbehaviours) as aws,
    ):
        session = boto3.Session("any", "any", region_name="us-east-1")
        config = Config(retries={"total_max_attempts": attempts, "mode": "standard"})
        client: PersonalizeClient = session.client(
            "personalize", endpoint_url=aws.address, config=config
        )
        yield client, aws
    service.close()


@dataclass
class RecordingStorage:
    """A storage that remembers what is done to it."""

    store: ObjectStore
    changes: list[tuple[str, str]] = field(default_factory=list)
    change_data: Callable[[bytes], bytes] = bytes

    def put(self, uri: str, data: bytes) -> str:
        self.changes.append(("put", uri))
        return self.store.put(uri, self.change_data(data))

    def delete(self, uri: str) -> None:
        self.changes.append(("delete", uri))
        self.store.delete(uri)


MISBEHAVIOURS: Sequence[Callable[[], Misbehaviour]] = (
    PendingStatuses,
    LateDescribes,
    lambda: LaggingLists(random.Random(0)),
    lambda: LostAnswers("CreateDataDeletionJob"),
    lambda: ReachedQuotas({"CreateDataDeletionJob": "More than 5 resources with PENDING status."}),
)


@pytest.mark.slow
def test_users_are_erased_once_at_the_worst_of_aws(shop: Local) -> None:
    misbehaviours = [make() for make in MISBEHAVIOURS]
    with client_before(shop, *misbehaviours, attempts=10) as (client, aws):
        first, second = (erase(shop, client) for _ in range(2))
        assert aws.creates_by_operation()["CreateDataDeletionJob"] == 1
    assert [type(each).__name__ for each in misbehaviours if not each.count] == []
    assert (first.status, first.records_deleted, first.created) == ("COMPLETED", RECORDS, True)
    assert first.started_at <= first.ended_at  # type: ignore[operator]
    assert second == replace(first, created=False)
    name = first.job_arn.rpartition("/")[2]
    assert name == f"{GROUP}-4f2a-1"
    assert shop.store.list(FOLDER) == []
    tags = make_ensure(shop.client).tags_of(first.job_arn)
    assert tags == TAGS


def test_the_list_is_there_during_the_job_only(shop: Local) -> None:
    storage = RecordingStorage(shop.store)
    ensure = make_ensure(shop.client)
    (group,) = find_dataset_groups(ensure, "shop")
    for _ in range(2):
        erase_users(ensure, storage, FOLDER, group, USERS, request="4f2a")
    uri = f"{FOLDER}{GROUP}-4f2a.csv"
    # The second call finds the job completed. It writes no ids, and deletes what another may have.
    assert storage.changes == [("put", uri), ("delete", uri), ("delete", uri)]


def test_another_request_starts_another_job(shop: Local) -> None:
    assert erase(shop).records_deleted == RECORDS
    other = erase(shop, request="77")
    assert (other.created, other.records_deleted) == (True, 0)


def test_a_caller_that_does_not_wait_comes_back(shop: Local) -> None:
    slow = shop.open_idle_client()
    started = erase(shop, slow, wait=False)
    assert (started.status, started.is_completed) == ("PENDING", False)
    assert (started.records_deleted, started.ended_at) == (None, None)
    (file,) = shop.store.list(FOLDER)
    assert shop.store.get(file.uri) == b"USER_ID\nnobody\nu1\nu2\n"
    finished = erase(shop)
    assert (finished.job_arn, finished.created) == (started.job_arn, False)
    assert (finished.is_completed, finished.records_deleted) == (True, RECORDS)
    assert shop.store.list(FOLDER) == []


def test_a_caller_that_is_killed_leaves_a_job_that_the_next_one_finds(shop: Local) -> None:
    slow = shop.open_idle_client()
    ensure = replace(make_ensure(slow), deadline_seconds=0.1)
    (group,) = find_dataset_groups(ensure, "shop")
    with pytest.raises(PersonalizeError, match="is PENDING"):
        erase_users(ensure, shop.store, FOLDER, group, USERS, request="4f2a")
    assert len(shop.store.list(FOLDER)) == 1
    result = erase(shop)
    assert (result.created, result.records_deleted) == (False, RECORDS)
    assert shop.store.list(FOLDER) == []


def test_a_failed_job_leaves_no_list_and_the_next_call_starts_another(shop: Local) -> None:
    storage = RecordingStorage(shop.store, change_data=lambda data: data.replace(b"USER", b"X"))
    ensure = make_ensure(shop.client)
    (group,) = find_dataset_groups(ensure, "shop")
    with pytest.raises(PersonalizeError, match="must have the one column USER_ID"):
        erase_users(ensure, storage, FOLDER, group, USERS, request="4f2a")
    assert shop.store.list(FOLDER) == []
    result = erase(shop)
    assert (result.created, result.records_deleted) == (True, RECORDS)
    assert result.job_arn.endswith("-4f2a-2")


@pytest.mark.slow
def test_a_refused_request_leaves_no_list_and_a_role_without_access_is_explained(
    shop: Local,
) -> None:
    refused = ReachedQuotas({"CreateDataDeletionJob": "The account has reached its maximum."})
    denied = FailingResources(
        {"CreateDataDeletionJob": ["Insufficient privileges for accessing data in Amazon S3."]}
    )
    with client_before(shop, refused, denied) as (client, _):
        with pytest.raises(PersonalizeError, match="reached its maximum"):
            erase(shop, client)
        assert shop.store.list(FOLDER) == []
        uri = f"{FOLDER}{GROUP}-4f2a.csv"
        with pytest.raises(PersonalizeError, match=f"s3:GetObject and s3:ListBucket on {uri}"):
            erase(shop, client)
        assert shop.store.list(FOLDER) == []


def test_work_in_the_group_is_waited_for_and_work_during_the_job_is_reported(
    shop: Local, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = f"arn:aws:personalize:us-east-1:000000000000:dataset/{GROUP}/INTERACTIONS"
    caplog.set_level(logging.INFO)
    shop_client, shop.client = shop.client, shop.open_idle_client()
    before = shop.start_import(dataset, "s3://data/rows.csv", "before")
    shop.client = shop_client
    result = erase(shop, wait=False)
    assert shop.describe(before)["status"] == "ACTIVE"
    shop.start_import(dataset, "s3://data/rows.csv", "during")
    assert result.overlapping_work == ()
    ensure = replace(make_ensure(shop.client), on_aws=True)
    (group,) = find_dataset_groups(ensure, "shop")
    result = erase_users(ensure, shop.store, FOLDER, group, USERS, request="4f2a")
    assert result.overlapping_work == ("dataset import job during",)
    assert "dataset import job during started while Personalize erased users" in caplog.text


def test_the_jobs_of_several_groups_run_at_once(shop: Local) -> None:
    shop.create_group("shop-89abcdef")
    slow = shop.open_idle_client()
    groups = [group["datasetGroupArn"] for group in slow.list_dataset_groups()["datasetGroups"]]
    ensure = replace(make_ensure(slow), deadline_seconds=0.1)
    with pytest.raises(PersonalizeError, match="is PENDING"):
        erase_users_from_groups(ensure, shop.store, FOLDER, groups, USERS, request="4f2a")
    assert len(slow.list_data_deletion_jobs()["dataDeletionJobs"]) == 2
    results = erase_users_from_groups(
        make_ensure(shop.client), shop.store, FOLDER, groups, USERS, request="4f2a"
    )
    assert [(result.created, result.records_deleted) for result in results] == [
        (False, RECORDS),
        (False, 0),
    ]
    assert shop.store.list(FOLDER) == []


def test_only_the_pipeline_s_own_groups_are_found(shop: Local) -> None:
    shop.create_group("shop-89abcdef")  # of somebody else: it has the name, but not the tags
    shop.create_group("shop-of-others")
    (arn,) = find_dataset_groups(make_ensure(shop.client), "shop")
    assert arn.endswith(f"/{GROUP}")
    assert find_dataset_groups(make_ensure(shop.client), "films") == []


def test_the_list_is_csv_without_repetitions_and_not_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert format_input(["b", 'a,"x"\ny', "b"]) == b'USER_ID\n"a,""x""\ny"\nb\n'
    monkeypatch.setattr(data_deletion, "MAX_INPUT_BYTES", 12)
    assert format_input(["u1"]) == b"USER_ID\nu1\n"
    with pytest.raises(PersonalizeError, match="several requests"):
        format_input(["u1", "u2"])


@pytest.mark.parametrize("request_id", ["", "a b", "a-1", "u1@example.com", "0" * 60])
def test_a_request_that_cannot_be_in_a_name_is_refused(request_id: str) -> None:
    ensure = make_ensure(None)  # type: ignore[arg-type]
    with pytest.raises(PersonalizeError, match="part of a job's name"):
        erase_users(ensure, ObjectStore(), FOLDER, f"arn/{GROUP}", USERS, request=request_id)
