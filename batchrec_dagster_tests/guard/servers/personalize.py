"""A local Personalize for tests, with functions that create resources and wait for them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders

from batchrec_dagster.local_personalize.api.client import embedded_client, make_client
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.servers.personalize_data import (
    Row,
    build_taste_rows,
    encode_csv,
    encode_user_lines,
    write_interactions_schema,
    write_schema,
)

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

ROLE = "arn:aws:iam::000000000000:role/personalize"
RECIPE = "arn:aws:personalize:::recipe/"
USER_RECIPE = "aws-user-personalization-v2"
SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
# The last two are statuses of data deletion jobs.
SETTLED = ("ACTIVE", "CREATE FAILED", "CREATE STOPPED", "COMPLETED", "FAILED")
# The maximum number of seconds that a job may take on a machine that is busy with other work.
DEADLINE_SECONDS = 300.0


def poll_until_deadline(seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Yield each time that the caller should look at the state again, until the seconds are over.

    The pauses grow, because one look costs as much CPU time as a job uses in five milliseconds.
    """
    give_up, pause = time.monotonic() + seconds, 0.005
    while time.monotonic() < give_up:
        yield
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)


class SlowPersonalize(LocalPersonalize):
    """A service that shows all resources that it created as pending.

    Other services on the same home show the resources as they are.
    """

    def __init__(self, home: Path, store: ObjectStore, **options: Any) -> None:
        super().__init__(home, store, **options)
        self._created: set[str] = set()

    def call(
        self, operation: str, params: dict[str, Any], success: Sequence[str] = ()
    ) -> dict[str, Any]:
        answer = super().call(operation, params, success)
        kind = operation.removeprefix("Create").removeprefix("Describe").removeprefix("List")
        member = kind[0].lower() + kind[1:].removesuffix("s") + "Arn"
        if operation.startswith("Create"):
            self._created.add(answer[member])
        for value in answer.values():
            for entry in value if isinstance(value, list) else [value]:
                if isinstance(entry, dict) and entry.get(member) in self._created:
                    entry["status"] = "CREATE PENDING"
        return answer


class Reply(NamedTuple):
    """An answer as Personalize sends it."""

    status: int
    text: bytes

    @property
    def content(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.text)
        return answer


@dataclass
class Local:
    """A local Personalize in a folder, with its storage."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "storage").mkdir(parents=True, exist_ok=True)
        self.store = ObjectStore(folders={"data": self.root / "storage"})
        self.client = self.open_client()

    def open_client(self, **options: Any) -> PersonalizeClient:
        """Open another client on the same home."""
        return embedded_client(self.root / "home", self.store, **options)

    def open_idle_client(self) -> PersonalizeClient:
        """Open another client on the same home, which sees all that it creates as pending."""
        return make_client(SlowPersonalize(self.root / "home", self.store))

    def describe(self, arn: str) -> dict[str, Any]:
        """Describe the resource with this ARN, whatever its kind."""
        return describe(self.client, arn)

    def wait(self, arn: str) -> dict[str, Any]:
        """Wait until the resource's status is final, and return the description."""
        return self.watch_until_settled(arn)[-1]

    def watch_until_settled(self, arn: str) -> list[dict[str, Any]]:
        """Return a description for each status that the resource passes, up to the final status."""
        descriptions: list[dict[str, Any]] = []
        for _ in poll_until_deadline():
            description = self.describe(arn)
            if not descriptions or description["status"] != descriptions[-1]["status"]:
                descriptions.append(description)
            if description["status"] in SETTLED:
                return descriptions
        raise AssertionError(f"{arn} is still {description['status']}")

    def wait_until_active(self, arn: str) -> str:
        """Wait until the resource is ACTIVE, and return its ARN."""
        description = self.wait(arn)
        assert description["status"] == "ACTIVE", description
        return arn

    def wait_until_gone(self, arn: str) -> None:
        """Wait until the resource does not exist any more."""
        for _ in poll_until_deadline():
            try:
                self.describe(arn)
            except self.client.exceptions.ResourceNotFoundException:
                return
        raise AssertionError(f"{arn} is still there")

    def create_group(self, name: str = "films") -> str:
        """Create a dataset group, and return its ARN once the group is ACTIVE."""
        return self.wait_until_active(
            self.client.create_dataset_group(name=name)["datasetGroupArn"]
        )

    def create_dataset(self, group: str, *, event_type: bool = True, name: str = "films") -> str:
        """Create an interactions dataset with a schema, and return the ACTIVE dataset's ARN."""
        schema = self.client.create_schema(
            name=name, schema=write_interactions_schema(event_type=event_type)
        )["schemaArn"]
        answer = self.client.create_dataset(
            name=name, schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
        )
        return self.wait_until_active(answer["datasetArn"])

    def start_import(self, dataset: str, uri: str, name: str = "first", **options: Any) -> str:
        """Create an import job, and return its ARN. The job may still be running."""
        return self.client.create_dataset_import_job(
            jobName=name,
            datasetArn=dataset,
            dataSource={"dataLocation": uri},
            roleArn=ROLE,
            **options,
        )["datasetImportJobArn"]

    def import_rows(
        self, rows: Sequence[Row], *, event_type: bool = True, group_name: str = "films"
    ) -> tuple[str, str]:
        """Import the rows into a new group, and return the ARNs of the group and its dataset."""
        self.store.put(
            "s3://data/interactions.csv",
            encode_csv(rows, event_type="watch" if event_type else None),
        )
        group = self.create_group(group_name)
        dataset = self.create_dataset(group, event_type=event_type)
        self.wait_until_active(self.start_import(dataset, "s3://data/interactions.csv"))
        return group, dataset

    def import_metadata(
        self, group: str, kind: str, fields: Sequence[Mapping[str, Any]], lines: Iterable[str]
    ) -> str:
        """Import items or users into a new dataset, and return its ARN.

        kind: Items or Users.
        fields: the fields of the dataset's schema.
        lines: lines of CSV, without the header.
        """
        schema = self.client.create_schema(name=kind.lower(), schema=write_schema(kind, *fields))
        answer = self.client.create_dataset(
            name=kind.lower(),
            schemaArn=schema["schemaArn"],
            datasetGroupArn=group,
            datasetType=kind,
        )
        dataset = self.wait_until_active(answer["datasetArn"])
        header = ",".join(field["name"] for field in fields)
        uri = f"s3://data/{kind}.csv"
        self.store.put(uri, "\n".join([header, *lines, ""]).encode())
        self.wait_until_active(self.start_import(dataset, uri, kind.lower()))
        return dataset

    def create_solution(self, group: str, recipe: str = USER_RECIPE, **options: Any) -> str:
        """Create a solution, and return its ARN once the solution is ACTIVE."""
        options = {"name": "films", "performAutoTraining": False, **options}
        answer = self.client.create_solution(
            datasetGroupArn=group, recipeArn=RECIPE + recipe, **options
        )
        return self.wait_until_active(answer["solutionArn"])

    def create_version(self, solution: str, **options: Any) -> str:
        """Create a solution version, and return its ARN. The version may still be in training."""
        answer = self.client.create_solution_version(solutionArn=solution, **options)
        return answer["solutionVersionArn"]

    def train_version(self, group: str, recipe: str = USER_RECIPE, **options: Any) -> str:
        """Train a new solution of a recipe, and return the ARN of the solution's version."""
        return self.wait_until_active(
            self.create_version(self.create_solution(group, recipe, **options))
        )

    def create_filter(self, group: str, expression: str = SEEN, name: str = "seen") -> str:
        """Create a filter, and return its ARN once the filter is ACTIVE."""
        answer = self.client.create_filter(
            name=name, datasetGroupArn=group, filterExpression=expression
        )
        return self.wait_until_active(answer["filterArn"])

    def create_batch_job(
        self,
        version: str,
        source: str = "s3://data/users.json",
        target: str = "s3://data/out/",
        **options: Any,
    ) -> str:
        """Create a batch inference job, and return its ARN. The job may still be running."""
        options = {"jobName": "batch", "roleArn": ROLE, **options}
        return self.client.create_batch_inference_job(
            solutionVersionArn=version,
            jobInput={"s3DataSource": {"path": source}},
            jobOutput={"s3DataDestination": {"path": target}},
            **options,
        )["batchInferenceJobArn"]

    def create_segment_job(
        self,
        version: str,
        source: str = "s3://data/queries.json",
        target: str = "s3://data/segments/",
        **options: Any,
    ) -> str:
        """Create a batch segment job, and return its ARN. The job may still be running."""
        options = {"jobName": "segment", "roleArn": ROLE, **options}
        return self.client.create_batch_segment_job(
            solutionVersionArn=version,
            jobInput={"s3DataSource": {"path": source}},
            jobOutput={"s3DataDestination": {"path": target}},
            **options,
        )["batchSegmentJobArn"]

    def recommend(
        self, version: str, user_ids: Sequence[str], job: str = "batch", **options: Any
    ) -> dict[str, list[str]]:
        """Run a batch inference job for these users, and return each user's recommended items."""
        self.store.put(f"s3://data/{job}/users.json", encode_user_lines(user_ids))
        arn = self.create_batch_job(
            version,
            f"s3://data/{job}/users.json",
            f"s3://data/{job}/out/",
            jobName=job,
            **options,
        )
        self.wait_until_active(arn)
        answers = [
            json.loads(line) for line in self.read_lines(f"s3://data/{job}/out/users.json.out")
        ]
        return {a["input"]["userId"]: a["output"]["recommendedItems"] for a in answers}

    def answer_lines(
        self, version: str, lines: Sequence[Any], job: str = "", **options: Any
    ) -> list[dict[str, Any]]:
        """Run a batch inference or segment job on these input lines, and return its output lines.

        The kind of the job follows from the recipe of the solution version.

        lines: values to write as JSON, or bytes to write as they are.
        job: the name of the job; empty for a new, unique name.
        """
        job = job or f"job-{uuid.uuid4().hex}"
        source, target = f"s3://data/{job}/in.json", f"s3://data/{job}/out/"
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        self.store.put(source, b"\n".join(raw))
        segments = "affinity" in self.describe(version)["recipeArn"]
        create = self.create_segment_job if segments else self.create_batch_job
        self.wait_until_active(create(version, source, target, jobName=job, **options))
        return [json.loads(line) for line in self.read_lines(f"{target}in.json.out")]

    def send(self, operation: str, body: Any, target: str = "AmazonPersonalize.") -> Reply:
        """Send a request without botocore's own checks, and return the answer.

        body: a value to send as JSON, or bytes to send as they are.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-Amz-Target": f"{target}{operation}"}
        request = AWSPreparedRequest(
            "POST", "http://personalize", HTTPHeaders.from_dict(headers), data, False
        )
        responses = self.client.meta.events.emit("before-send.personalize.Any", request=request)
        (response,) = [response for _, response in responses if response is not None]
        return Reply(response.status_code, response.content)

    def read_lines(self, uri: str) -> list[str]:
        """Return the lines of an object, which must end in a newline."""
        text = self.store.get(uri).decode()
        assert text.endswith("\n")
        return text[:-1].split("\n")


def describe(client: PersonalizeClient, arn: str) -> dict[str, Any]:
    """Return the description of the resource with this ARN, without the envelope of the answer."""
    path = arn.split(":", 5)[5].split("/")
    kind = "solution-version" if path[0] == "solution" and len(path) == 3 else path[0]
    words = kind.split("-")
    member = words[0] + "".join(word.title() for word in words[1:]) + "Arn"
    operation: Callable[..., Mapping[str, Any]] = getattr(
        client, "describe_" + kind.replace("-", "_")
    )
    answer = operation(**{member: arn})
    return next(value for name, value in answer.items() if name != "ResponseMetadata")


@pytest.fixture
def local(tmp_path: Path) -> Local:
    """Return a new local Personalize."""
    return Local(tmp_path)


@dataclass
class Films(Local):
    """A local Personalize with the rows of `build_taste_rows`, which several tests share.

    Each test has to give its jobs and filters unique names.
    """

    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.films, _ = self.import_rows(build_taste_rows())

    def train(self, recipe: str) -> str:
        """Return the ARN of a solution version of the recipe, which the first call trains."""
        if recipe not in self.versions:
            solution = self.create_solution(self.films, recipe, name=recipe)
            self.versions[recipe] = self.wait_until_active(self.create_version(solution))
        return self.versions[recipe]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))
