"""Tests that people are erased from Personalize once, despite faults of requests, runs or jobs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster_tests.guard.faults.personalize import (
    NO_ACCESS,
    SOFT_QUOTA,
    FailingResources,
    LaggingLists,
    LateDescribes,
    LostAnswers,
    PendingStatuses,
    ReachedQuotas,
)
from batchrec_dagster_tests.guard.faults.personalize_requests import (
    Misbehaviour,
    Request,
    make_error,
)
from batchrec_dagster_tests.guard.faults.worst_aws import misbehave
from batchrec_dagster_tests.guard.seams.personalize import (
    ErasedFromGroup,
    PersonalizeFailure,
    Resources,
)
from batchrec_dagster_tests.guard.servers.personalize import Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

    from batchrec_dagster_tests.guard.faults.personalize_requests import Answer

pytestmark = pytest.mark.slow

OPERATION = "CreateDataDeletionJob"
FOLDER = "s3://data/shop/erasures/"
USERS = ["u1", "u2", "nobody", "u1"]
RECORDS = sum(user in USERS for user, *_ in build_taste_rows())


@pytest.fixture
def shop(local: Local) -> Local:
    """Return a Personalize with data of the pipeline `shop`, and another person's group."""
    group, _ = local.import_rows(build_taste_rows(), group_name="shop-0123abcd")
    own_tags = {"batchrec:pipeline": "shop", "batchrec:storage": "s3://data/"}
    local.client.tag_resource(
        resourceArn=group,
        tags=[{"tagKey": key, "tagValue": value} for key, value in own_tags.items()],
    )
    local.create_group("shop-of-others")
    return local


def erase(
    shop: Local,
    client: PersonalizeClient | None = None,
    request: str = "4f2a",
    deadline: float = 60,
) -> ErasedFromGroup:
    resources = Resources(client or shop.client, deadline_seconds=deadline)
    (result,) = resources.erase_users(shop.store, FOLDER, USERS, request)
    return result


@dataclass
class SeenLists(Misbehaviour):
    """A misbehaviour that only reads the list of people whenever the job is described."""

    shop: Local
    lists: list[bytes] = field(default_factory=list, init=False)

    def change(self, request: Request, answer: Answer) -> Answer | None:
        if request.operation == "DescribeDataDeletionJob":
            self.lists += [self.shop.store.get(file.uri) for file in self.shop.store.list(FOLDER)]
        return answer


MISBEHAVIOURS: Sequence[Callable[[], Misbehaviour]] = (
    PendingStatuses,
    LateDescribes,
    lambda: LaggingLists(random.Random(0)),
    lambda: LostAnswers(OPERATION),
    lambda: ReachedQuotas({OPERATION: SOFT_QUOTA}),
)


def test_users_are_erased_once_at_the_worst_of_aws(shop: Local) -> None:
    misbehaviours = [make() for make in MISBEHAVIOURS]
    client, aws = misbehave(shop.client, *misbehaviours, attempts=10)
    first, second = (erase(shop, client) for _ in range(2))
    assert [
        type(misbehaviour).__name__ for misbehaviour in misbehaviours if not misbehaviour.count
    ] == []
    assert aws.creates_by_operation() == {OPERATION: 1}
    assert (first.status, first.records_deleted) == ("COMPLETED", RECORDS)
    assert second == first
    assert shop.store.list(FOLDER) == []
    tags = shop.client.list_tags_for_resource(resourceArn=first.job_arn)["tags"]
    assert {"tagKey": "batchrec:pipeline", "tagValue": "shop"} in tags


def test_the_list_of_people_is_there_during_the_job_only(shop: Local) -> None:
    seen = SeenLists(shop)
    client, _ = misbehave(shop.client, PendingStatuses(), seen)
    erase(shop, client)
    assert set(seen.lists) == {b"USER_ID\nnobody\nu1\nu2\n"}
    assert shop.store.list(FOLDER) == []


def test_another_request_starts_another_job(shop: Local) -> None:
    first, other = erase(shop), erase(shop, request="77")
    assert first.job_arn != other.job_arn
    assert (first.records_deleted, other.records_deleted) == (RECORDS, 0)


def test_a_run_that_ends_early_leaves_a_job_that_the_next_one_finds(shop: Local) -> None:
    slow, aws = misbehave(shop.open_idle_client())
    with pytest.raises(PersonalizeFailure, match="data deletion job"):
        erase(shop, slow, deadline=0.1)
    # The job may still read the list.
    assert len(shop.store.list(FOLDER)) == 1
    client, aws_later = misbehave(shop.client)
    result = erase(shop, client)
    assert (result.status, result.records_deleted) == ("COMPLETED", RECORDS)
    assert aws.creates_by_operation() == {OPERATION: 1}
    assert not aws_later.creates
    assert shop.store.list(FOLDER) == []


def test_a_failed_job_leaves_no_list_and_the_next_run_starts_another(shop: Local) -> None:
    failing = FailingResources({OPERATION: [NO_ACCESS]})
    client, aws = misbehave(shop.client, failing)
    with pytest.raises(PersonalizeFailure) as error:
        erase(shop, client)
    for words in ("s3:GetObject", FOLDER):
        assert words in str(error.value)
    assert shop.store.list(FOLDER) == []
    result = erase(shop, client)
    assert result.status == "COMPLETED"
    assert result.job_arn not in failing.failed
    assert aws.creates_by_operation() == {OPERATION: 2}


class RefusedRequests(Misbehaviour):
    """A misbehaviour that refuses each data deletion job."""

    def refuse(self, request: Request) -> Answer | None:
        is_deletion = request.operation == OPERATION
        return make_error("InvalidInputException", "no such role") if is_deletion else None


def test_a_refused_request_leaves_no_list(shop: Local) -> None:
    client, _ = misbehave(shop.client, RefusedRequests())
    with pytest.raises(PersonalizeFailure, match="no such role"):
        erase(shop, client)
    assert shop.store.list(FOLDER) == []


class RefusedLists(Misbehaviour):
    """A misbehaviour that refuses to list data deletion jobs once the list of people is there."""

    def __init__(self, shop: Local) -> None:
        super().__init__()
        self._shop = shop

    def refuse(self, request: Request) -> Answer | None:
        is_list = request.operation == "ListDataDeletionJobs"
        if is_list and self._shop.store.list(FOLDER):
            return make_error("AccessDeniedException", "not authorized")
        return None


def test_an_error_before_the_job_is_created_leaves_no_list_and_the_next_run_erases(
    shop: Local,
) -> None:
    client, aws = misbehave(shop.client, RefusedLists(shop))
    with pytest.raises(ClientError, match="not authorized"):
        erase(shop, client)
    assert not aws.creates
    assert shop.store.list(FOLDER) == []
    assert erase(shop).status == "COMPLETED"


def test_people_are_erased_from_the_pipeline_s_own_groups_alone(shop: Local) -> None:
    (arn,) = Resources(shop.client).find_groups()
    assert arn.endswith("/shop-0123abcd")
    assert Resources(shop.client, "films").find_groups() == []


def test_the_groups_of_a_pipeline_with_a_long_name_have_lists_of_their_own(local: Local) -> None:
    pipeline = "p" * 32
    tags = {"batchrec:pipeline": pipeline, "batchrec:storage": "s3://data/"}
    for ending in ("0123abcd", "01245678"):
        local.client.tag_resource(
            resourceArn=local.create_group(f"{pipeline}-{ending}"),
            tags=[{"tagKey": key, "tagValue": value} for key, value in tags.items()],
        )
    erased = Resources(local.client, pipeline).erase_users(
        local.store, FOLDER, USERS, request="0123456789abcdef"
    )
    jobs = [
        local.client.describe_data_deletion_job(dataDeletionJobArn=result.job_arn)
        for result in erased
    ]
    lists = {job["dataDeletionJob"]["dataSource"]["dataLocation"] for job in jobs}
    assert len(lists) == 2
