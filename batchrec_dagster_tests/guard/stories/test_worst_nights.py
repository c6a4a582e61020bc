"""Tests of three nights with all of AWS's faults: right lists, and nothing paid twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster_tests.guard.faults.personalize import (
    HARD_QUOTA,
    NO_ACCESS,
    SOFT_QUOTA,
    ErrorLines,
    ExpiringCredentials,
    FailingResources,
    LaggingLists,
    LateDescribes,
    LostAnswers,
    PendingStatuses,
    ReachedQuotas,
    SplitOutputs,
    Throttling,
)
from batchrec_dagster_tests.guard.faults.worst_aws import WorstAws, worst_aws
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.servers.night import Night, night
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

# Create operations that cost money, and how often a night needs them.
PAID = {
    "CreateDatasetImportJob": 1,
    "CreateSolutionVersion": 1,
    "CreateBatchInferenceJob": 1,
}
# Create operations of the first night that cost nothing.
FREE = {
    "CreateDatasetGroup": 1,
    "CreateSchema": 1,
    "CreateDataset": 1,
    "CreateSolution": 1,
    "CreateFilter": 1,
}
OUT_OF_MEMORY = "Internal server error: out of memory."


@dataclass(frozen=True)
class Start:
    """A start of a night's run, and AWS's faults during it."""

    fix: Sequence[str] = ()
    """Words of the failing run's message; empty for a run that publishes."""
    lost: str | None = None
    """The operation with a lost first answer."""
    expires_before: str | None = None
    """The operation before which the credentials expire."""
    quotas: dict[str, str] = field(default_factory=dict)
    """The quota messages by operation. Each operation reaches its quota once."""
    failing: dict[str, Sequence[str]] = field(default_factory=dict)
    """The reasons why the next resources fail, by operation.

    A run starts a failed resource once more, so it survives one failure but not two. It starts no
    resource once more if the failure would repeat, such as a missing permission.
    """
    damaged_outputs: int = 0
    """The number of outputs with failed lines. The next run starts a job for each output."""


NIGHTS = (
    (
        Start(
            lost="CreateDataset",
            quotas={"CreateSolution": HARD_QUOTA},
            fix=("batchrec teardown", "Service Quotas"),
        ),
        Start(lost="CreateSolution", expires_before="CreateSolutionVersion", fix=("log in again",)),
        Start(
            lost="CreateSolutionVersion",
            quotas={"CreateBatchInferenceJob": SOFT_QUOTA},
        ),
    ),
    (
        Start(
            lost="CreateDatasetImportJob",
            failing={"CreateDatasetImportJob": [NO_ACCESS]},
            fix=("s3:GetObject", "in the bucket's policy", "deploy/aws.yaml", "run again"),
        ),
        Start(
            lost="CreateBatchInferenceJob",
            quotas={"CreateDatasetImportJob": SOFT_QUOTA},
            damaged_outputs=1,
            fix=("users failed", "the next run starts a new job"),
        ),
        Start(failing={"CreateBatchInferenceJob": [OUT_OF_MEMORY]}),
    ),
    (
        Start(
            lost="CreateDatasetImportJob",
            failing={"CreateSolutionVersion": [OUT_OF_MEMORY] * 2},
            fix=(OUT_OF_MEMORY, "run again"),
        ),
        Start(lost="CreateSolutionVersion", quotas={"CreateSolutionVersion": SOFT_QUOTA}),
    ),
)


@dataclass
class Misbehaviours:
    """All faults of AWS."""

    credentials: ExpiringCredentials
    throttling: Throttling
    quotas: ReachedQuotas
    failures: FailingResources
    errors: ErrorLines
    parts: SplitOutputs
    late: LateDescribes
    statuses: PendingStatuses
    lists: LaggingLists
    lost: LostAnswers

    def prepare(self, start: Start) -> None:
        """Prepare AWS's faults for this start of a run."""
        self.credentials.renew()
        self.credentials.expire_before = start.expires_before
        self.quotas.messages = {**start.quotas}
        self.failures.reasons = {name: [*reasons] for name, reasons in start.failing.items()}
        self.errors.outputs_left = start.damaged_outputs
        self.lost.operation = start.lost

    def require_used(self) -> None:
        """Fail unless all prepared faults happened."""
        assert not self.quotas.messages
        assert not any(self.failures.reasons.values())
        assert not self.errors.outputs_left
        assert self.lost.operation is None


@contextmanager
def on_worst_aws(
    folder: Path, s3: S3Server, seed: int
) -> Iterator[tuple[Night, WorstAws, Misbehaviours]]:
    """Return the project, on a server that it takes for AWS."""
    chance = random.Random(seed)
    ways = Misbehaviours(
        ExpiringCredentials(),
        Throttling(chance),
        ReachedQuotas(),
        FailingResources(),
        ErrorLines(s3.store(), chance),
        SplitOutputs(s3.store(), chance),
        LateDescribes(),
        PendingStatuses(),
        LaggingLists(chance),
        LostAnswers(),
    )
    with (
        night(folder, s3) as shop,
        worst_aws(f"http://127.0.0.1:{shop.port}", *vars(ways).values()) as aws,
    ):
        shop.start_personalize()
        shop.without_pauses = True
        shop.environment |= {
            "BATCHREC_PERSONALIZE": "aws",
            "AWS_ENDPOINT_URL_PERSONALIZE": aws.address,
            "BATCHREC_ROLE_ARN": "arn:aws:iam::000000000000:role/personalize",
            "BATCHREC_POLL_SECONDS": "0.05",
        }
        yield shop, aws, ways


@nightly("ten runs on a server")
@pytest.mark.parametrize("seed", range(repeats(5)))
def test_three_nights_publish_the_right_lists_and_pay_for_nothing_twice(
    seed: int, tmp_path: Path, s3: S3Server
) -> None:
    (tmp_path / "shop").mkdir()
    with on_worst_aws(tmp_path / "shop", s3, seed) as (shop, aws, ways):
        for number, starts in enumerate(NIGHTS):
            shop.new_data(seed + number)
            before = aws.creates_by_operation()
            for start in starts:
                ways.prepare(start)
                failure = shop.start_run().end()
                assert bool(failure) == bool(start.fix), failure
                for words in start.fix:
                    assert words in failure
                ways.require_used()
            # Rows have the order of the job's output, which AWS does not promise.
            lists, calm_lists = shop.lists(), shop.make_expected_lists(tmp_path / f"calm-{number}")
            assert_frame_equal(lists.sort("user_id", "rank"), calm_lists.sort("user_id", "rank"))
            failed = Counter[str]()
            for start in starts:
                failed.update({name: len(reasons) for name, reasons in start.failing.items()})
            failed["CreateBatchInferenceJob"] += sum(start.damaged_outputs for start in starts)
            free = FREE if number == 0 else {}
            assert aws.creates_by_operation() - before == Counter(PAID) + Counter(free) + failed
        assert all(way.count for way in vars(ways).values())
