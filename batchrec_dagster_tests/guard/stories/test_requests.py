"""Tests of whole runs' requests to Personalize: valid, the same on AWS and off it, and sent once.

"On AWS" means AWS's settings, boto3's client with signatures and retries, S3, and AWS's limits.
Only the server behind the client is local. `texts/requests.txt` has all Create requests. To record
another pipeline, add it to PIPELINES.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    module_project,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.oracles.recorded_requests import (
    RecordedRequest,
    RequestRenderer,
    record_requests,
    record_signed_services,
    validate,
)
from batchrec_dagster_tests.guard.servers.aws_door import open_personalize_door
from batchrec_dagster_tests.guard.servers.s3 import REGION, S3Server
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow

ACCOUNT = "111122223333"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/batchrec-personalize"
NUM_RESULTS = re.compile(r"numResults=\d+")


def write_shop(folder: Path) -> None:
    """Write files of 45 people and 200 items. Most people have more than 100 interactions."""
    write_ratings(folder / "ratings.csv", users=40, items=200, own=100, other=10)
    chance = random.Random(0)
    ratings = (folder / "ratings.csv").read_text().splitlines()
    events = [f"{line},{chance.choice(['buy', 'view'])}" for line in ratings[1:]]
    kinds = ["food", "toys", "tools", "books"]
    items = [
        f"{item},Title {item},{kinds[item % 4]},{item % 5},{1 + item % 7},2017-01-01"
        for item in range(1, 201)
    ]
    # The last five people have no interactions.
    people = [
        f"{user},{'DE' if user % 3 else 'AT'},{'yes' if user % 5 else 'no'}"
        for user in range(1, 46)
    ]
    tables = {
        "ratings.csv": [f"{ratings[0]},event", *events],
        "items.csv": ["sku,name,kind,stock,price,since", *items],
        "people.csv": ["id,country,consent", *people],
        "blocked.csv": ["sku", "3"],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")


SHOP: dict[str, Any] = {
    "name": "shop",
    "ratings": {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
    "items": {
        "source": "items.csv",
        "columns": {
            "item": "sku",
            "title": "name",
            "categories": {"KIND": "kind"},
            "numbers": {"STOCK": "stock", "PRICE": "price"},
            "created": "since",
        },
    },
    "users": {
        "source": "people.csv",
        "columns": {"user": "id", "categories": {"COUNTRY": "country", "CONSENT": "consent"}},
    },
    "batch_users": {"source": "people.csv", "column": "id", "filter": 'USERS.CONSENT = "yes"'},
    "solution": {
        "event_weights": {"buy": 1, "view": 0.3},
        "success": ["buy"],
    },
}
RULES = {
    "num_results": 6,
    "newcomers": {"popular_by": "COUNTRY"},
    "filter": 'EXCLUDE ItemID WHERE Items.KIND = "books" IF CurrentUser.COUNTRY = "AT"',
    "exclude_seen": {"events": ["buy"], "days": 90},
    "rules": {
        "block": {"source": "blocked.csv", "column": "sku"},
        "only": "ITEMS.STOCK > 0",
        "price": {"of": "PRICE", "within": [0.2, 5], "events": ["buy"]},
        "max_per": {"KIND": 3},
        "pin": [{"item": "77", "rank": 2, "for": 'USERS.COUNTRY = "AT"'}],
    },
}
# aws-similar-items finds similar items, because the items have categories.
SIMILAR_ITEMS = {
    "num_results": 4,
    "rules": {"block": {"source": "blocked.csv", "column": "sku"}, "only": "ITEMS.STOCK > 0"},
}


@dataclass(frozen=True)
class RecordedPipeline:
    """A pipeline with recorded requests."""

    declaration: Mapping[str, Any]
    tags: str = ""
    """The deployment's tags, in the form of BATCHREC_TAGS."""


PIPELINES = {
    "users and rules": RecordedPipeline(
        {**SHOP, "recommendations": RULES, "similar_items": SIMILAR_ITEMS},
        tags="team=data",
    ),
    # The three lists need one training and two jobs. Home and app share a job, because they have
    # the same users and the same filter. The similar items are items bought together, which need
    # no request.
    "three lists": RecordedPipeline(
        {
            **{name: SHOP[name] for name in ("name", "ratings", "users")},
            "solution": {
                "recipe": "aws-user-personalization",
                "hyperparameters": {"bptt": 16, "max_user_history_length_percentile": 0.9},
            },
            "lists": {
                "newsletter": {
                    "users": SHOP["batch_users"],
                    "num_results": 6,
                    "exploration_weight": 0.25,
                },
                "home": {"num_results": 12},
                "app": {"num_results": 5},
            },
            "similar_items": {"within_days": 7, "events": ["buy"]},
        },
    ),
}


@dataclass(frozen=True)
class Nights:
    """The requests of two runs on the same data."""

    first: list[RecordedRequest]
    second: list[RecordedRequest]


@dataclass(frozen=True)
class Recording:
    """The requests of a pipeline, as lines."""

    first_on_aws: list[str]
    second_on_aws: list[str]
    first_embedded: list[str]


def _run(project: Project) -> list[RecordedRequest]:
    """Run the refresh, and return its requests."""
    with record_requests() as requests, dg.DagsterInstance.ephemeral() as instance:
        result = refresh(project, "shop", instance)
    assert result.success, why(result)
    return requests


def _run_on_aws(root: Path, pipeline: RecordedPipeline, s3: S3Server, bucket: str) -> Nights:
    project = module_project(root)
    write_shop(root)
    project.declare(pipeline.declaration)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        door = stack.enter_context(
            open_personalize_door(root / "personalize", s3.store(), region=REGION, account=ACCOUNT)
        )
        project.environment = {
            **s3.environment(),
            "AWS_ENDPOINT_URL_PERSONALIZE": door.url,
            "BATCHREC_PERSONALIZE": "aws",
            "BATCHREC_STORAGE": f"s3://{bucket}/batchrec",
            "BATCHREC_ROLE_ARN": ROLE,
            "BATCHREC_TAGS": pipeline.tags,
            "BATCHREC_BUSY_SECONDS": "0.2",
        }
        for name, value in project.environment.items():
            patch.setenv(name, value)
        services = stack.enter_context(record_signed_services())
        nights = Nights(_run(project), _run(project))
    # no requests to STS, to IAM, or to Personalize in another region
    assert services - {("s3", REGION)} == {("personalize", REGION)}
    return nights


def _run_embedded(root: Path, pipeline: RecordedPipeline) -> list[RecordedRequest]:
    project = module_project(root)
    project.environment = {"BATCHREC_TAGS": pipeline.tags}
    write_shop(root)
    project.declare(pipeline.declaration)
    return _run(project)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> dict[str, Recording]:
    """Return the recordings of PIPELINES by name."""
    recordings = {}
    for name, pipeline in PIPELINES.items():
        bucket = s3.create_bucket()
        nights = _run_on_aws(tmp_path_factory.mktemp("aws"), pipeline, s3, bucket)
        embedded = _run_embedded(tmp_path_factory.mktemp("embedded"), pipeline)
        for requests in (nights.first, nights.second, embedded):
            validate(requests)
        on_aws = RequestRenderer({f"s3://{bucket}/batchrec": "<storage>", ROLE: "<role>"})
        # The embedded Personalize has its own account, region and role.
        (role,) = {request.params["roleArn"] for request in embedded if "roleArn" in request.params}
        locally = RequestRenderer({"s3://batchrec-local": "<storage>", role: "<role>"})
        recordings[name] = Recording(
            on_aws.render(nights.first),
            on_aws.render(nights.second),
            locally.render(embedded),
        )
    return recordings


def list_created(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith("Create")]


def test_whole_runs_on_aws_send_the_committed_create_requests(
    recordings: dict[str, Recording],
) -> None:
    assert_texts(
        "requests",
        [
            (name, "\n".join(list_created(recording.first_on_aws)))
            for name, recording in recordings.items()
        ],
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_without_aws_the_same_is_created(recordings: dict[str, Recording], name: str) -> None:
    # On AWS, filters know only a user's last 100 interactions. So the jobs there ask for more
    # results, and numResults is not compared.
    on_aws, embedded = (
        [NUM_RESULTS.sub("", line) for line in list_created(lines)]
        for lines in (recordings[name].first_on_aws, recordings[name].first_embedded)
    )
    assert on_aws == embedded


def test_three_lists_are_one_training_and_two_jobs(recordings: dict[str, Recording]) -> None:
    operations = Counter(line.split()[0] for line in recordings["three lists"].first_on_aws)
    assert operations["CreateSolutionVersion"] == 1
    assert operations["CreateBatchInferenceJob"] == 2


@pytest.mark.parametrize("name", PIPELINES)
def test_a_second_run_only_reads(recordings: dict[str, Recording], name: str) -> None:
    reads = re.compile(r"(List|Describe|Get)[A-Z]")
    assert all(reads.match(line) for line in recordings[name].second_on_aws)


@pytest.mark.parametrize(
    ("operation", "params", "message"),
    [
        ("CreateDatasetGroup", {"name": "n" * 64}, "more than 63"),
        ("CreateDatasetGroup", {"name": "two words"}, "does not match"),
        ("CreateDatasetGroup", {"name": "shop", "colour": "red"}, "Unknown parameter"),
        ("ListSchemas", {"maxResults": 101}, "more than 100"),
    ],
)
def test_a_request_that_amazon_would_refuse(
    operation: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        validate([RecordedRequest(operation, params)])
