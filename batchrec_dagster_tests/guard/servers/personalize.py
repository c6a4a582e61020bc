"""What the tests of the local Personalize share: a service, and waiting for it."""

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
# The last two are of data deletion jobs.
SETTLED = ("ACTIVE", "CREATE FAILED", "CREATE STOPPED", "COMPLETED", "FAILED")
# How long a job may take on a machine that is busy with other work.
DEADLINE_SECONDS = 300.0


def poll_until_deadline(seconds: float = DEADLINE_SECONDS) -> Iterator[None]:
    """Yields whenever the caller is to look at the state again, for at most this many seconds.

    The pauses grow, because one look takes as much CPU as five milliseconds of the work.
    """
    give_up, pause = time.monotonic() + seconds, 0.005
    while time.monotonic() < give_up:
        yield
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)


class SlowPersonalize(LocalPersonalize):
    """A service that shows whatever it created as pending. Other services show it as it is."""

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
    """An answer as it is on the wire."""

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
        """Opens a further client on the same home."""
        return embedded_client(self.root / "home", self.store, **options)

    def open_idle_client(self) -> PersonalizeClient:
        """Opens a further client on the same home, to which whatever it creates stays pending."""
        return make_client(SlowPersonalize(self.root / "home", self.store))

    def describe(self, arn: str) -> dict[str, Any]:
        """Describe, whatever kind of resource the ARN names."""
        return describe(self.client, arn)

    def wait(self, arn: str) -> dict[str, Any]:
        """The description, once nothing more happens to the resource."""
        return self.watch_until_settled(arn)[-1]

    def watch_until_settled(self, arn: str) -> list[dict[str, Any]]:
        """A description for each status that was seen, up to the one that lasts."""
        descriptions: list[dict[str, Any]] = []
        for _ in poll_until_deadline():
            description = self.describe(arn)
            if not descriptions or description["status"] != descriptions[-1]["status"]:
                descriptions.append(description)
            if description["status"] in SETTLED:
                return descriptions
        raise AssertionError(f"{arn} is still {description['status']}")

    def wait_until_active(self, arn: str) -> str:
        """Returns the ARN once the resource is ACTIVE."""
        description = self.wait(arn)
        assert description["status"] == "ACTIVE", description
        return arn

    def wait_until_gone(self, arn: str) -> None:
        """Returns once the resource is not there any more."""
        for _ in poll_until_deadline():
            try:
                self.describe(arn)
            except self.client.exceptions.ResourceNotFoundException:
                return
        raise AssertionError(f"{arn} is still there")

    def create_group(self, name: str = "films") -> str:
        """Creates a dataset group and returns its ARN once it is ACTIVE."""
        return self.wait_until_active(
            self.client.create_dataset_group(name=name)["datasetGroupArn"]
        )

    def create_dataset(self, group: str, *, event_type: bool = True, name: str = "films") -> str:
        """Creates an interactions dataset and its schema; returns the dataset's ARN once ACTIVE."""
        schema = self.client.create_schema(
            name=name, schema=write_interactions_schema(event_type=event_type)
        )["schemaArn"]
        answer = self.client.create_dataset(
            name=name, schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
        )
        return self.wait_until_active(answer["datasetArn"])

    def start_import(self, dataset: str, uri: str, name: str = "first", **options: Any) -> str:
        """Creates an import job, which may still run, and returns its ARN."""
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
        """Imports the rows into a new group; returns the ARNs of the group and its dataset."""
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
        """Imports items or users into a new dataset, and returns its ARN.

        kind: Items or Users.
        lines: of CSV, without the header.
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
        """Creates a solution and returns its ARN once it is ACTIVE."""
        options = {"name": "films", "performAutoTraining": False, **options}
        answer = self.client.create_solution(
            datasetGroupArn=group, recipeArn=RECIPE + recipe, **options
        )
        return self.wait_until_active(answer["solutionArn"])

    def create_version(self, solution: str, **options: Any) -> str:
        """Creates a solution version, which may still be in training, and returns its ARN."""
        answer = self.client.create_solution_version(solutionArn=solution, **options)
        return answer["solutionVersionArn"]

    def train_version(self, group: str, recipe: str = USER_RECIPE, **options: Any) -> str:
        """Trains a new solution of a recipe, and returns the ARN of its version."""
        return self.wait_until_active(
            self.create_version(self.create_solution(group, recipe, **options))
        )

    def create_filter(self, group: str, expression: str = SEEN, name: str = "seen") -> str:
        """Creates a filter and returns its ARN once it is ACTIVE."""
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
        """Creates a batch inference job, which may still run, and returns its ARN."""
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
        """Creates a batch segment job, which may still run, and returns its ARN."""
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
        """The items recommended to these users, by a batch inference job that has run."""
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
        """What a batch job, of inference or of segments, answers these input lines with.

        lines: JSON, or bytes as they are.
        job: its name, by default one that no other has.
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
        """What a client gets that checks nothing itself.

        body: JSON, or bytes as they are.
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
        """The lines of an object, which ends in a newline."""
        text = self.store.get(uri).decode()
        assert text.endswith("\n")
        return text[:-1].split("\n")


def describe(client: PersonalizeClient, arn: str) -> dict[str, Any]:
    """What Describe answers, without the envelope."""
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
    """A fresh local Personalize."""
    return Local(tmp_path)


@dataclass
class Films(Local):
    """A local Personalize with `build_taste_rows`, for tests that share it.

    Each test gives its jobs and filters names of their own.
    """

    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.films, _ = self.import_rows(build_taste_rows())

    def train(self, recipe: str) -> str:
        """The ARN of a solution version of the recipe, which is trained at the first call."""
        if recipe not in self.versions:
            solution = self.create_solution(self.films, recipe, name=recipe)
            self.versions[recipe] = self.wait_until_active(self.create_version(solution))
        return self.versions[recipe]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))
