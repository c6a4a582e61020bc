"""kill -9 at any moment, and many processes at once: every job ends right, and once only.

The work is a whole chain, from a file to recommendations, that looks for what exists before it
creates, as a pipeline does. What it leaves must be, byte for byte, what an undisturbed chain does.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batchrec_dagster.local_personalize.api.client import make_client
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.forks import FORKS
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    SEEN,
    Local,
    build_taste_rows,
    describe,
    encode_csv,
    encode_user_lines,
    poll_until_deadline,
)

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

    from types_boto3_personalize import PersonalizeClient

# The number of kills during an import, a training or a batch job.
MOMENTS = repeats(6, 3)
PROCESSES = repeats(5, 3)
SEED = 11
ACCOUNT = "arn:aws:personalize:us-east-1:000000000000:"
SEGMENTS = "aws-item-affinity"
RECIPES = ("aws-user-personalization-v2", "aws-user-personalization", SEGMENTS)


class Chain:
    """The work of a pipeline on a home and a storage in a folder.

    notify: gets the name of each step when it starts.
    """

    def __init__(self, root: Path, notify: Callable[[str], None] = lambda step: None) -> None:
        self._notify = notify
        self._store = ObjectStore(folders={"data": root / "storage"})
        self._service = LocalPersonalize(root / "home", self._store)
        self._client = make_client(self._service)

    def run(self, batches: list[str]) -> None:
        """Everything that there is not yet, and then these batches of every recipe."""
        client = self._client
        group = self._ensure(client.create_dataset_group, "dataset-group/films", name="films")
        text = build_interactions_schema(event_type=True)
        schema = self._ensure(client.create_schema, "schema/films", name="films", schema=text)
        dataset = self._ensure(
            client.create_dataset,
            "dataset/films/INTERACTIONS",
            name="films",
            datasetGroupArn=group,
            schemaArn=schema,
            datasetType="Interactions",
        )
        for job in ("first", "second"):  # the second replaces what the first has imported
            self._ensure(
                client.create_dataset_import_job,
                f"dataset-import-job/{job}",
                jobName=job,
                datasetArn=dataset,
                roleArn=ROLE,
                dataSource={"dataLocation": f"s3://data/{job}.csv"},
            )
        filter_arn = self._ensure(
            client.create_filter,
            "filter/seen",
            name="seen",
            datasetGroupArn=group,
            filterExpression=SEEN,
        )
        for recipe in RECIPES:
            solution = self._ensure(
                client.create_solution,
                f"solution/{recipe}",
                name=recipe,
                datasetGroupArn=group,
                recipeArn=RECIPE + recipe,
                performAutoTraining=False,
            )
            version = self._train_version(solution)
            for batch in batches:
                self._run_batch(recipe, version, filter_arn, f"{batch}-{recipe}")

    def _run_batch(self, recipe: str, version: str, filter_arn: str, name: str) -> None:
        params: dict[str, Any] = {
            "jobName": name,
            "solutionVersionArn": version,
            "roleArn": ROLE,
            "jobOutput": {"s3DataDestination": {"path": f"s3://data/out/{name}/"}},
        }
        if recipe == SEGMENTS:
            params["jobInput"] = {"s3DataSource": {"path": "s3://data/items/"}}
            job = f"batch-segment-job/{name}"
            self._ensure(self._client.create_batch_segment_job, job, **params)
        else:
            params["jobInput"] = {"s3DataSource": {"path": "s3://data/users/"}}
            job = f"batch-inference-job/{name}"
            self._ensure(
                self._client.create_batch_inference_job, job, filterArn=filter_arn, **params
            )

    def close(self) -> None:
        self._service.close()

    def _ensure(self, create: Callable[..., Any], resource: str, **params: Any) -> str:
        """The ARN of an ACTIVE resource, made if it is not there."""
        arn = ACCOUNT + resource
        self._notify(resource)
        self._create(create, **params)
        return self._wait_until_active(arn)

    def _train_version(self, solution: str) -> str:
        """The ARN of the solution's only version, which is random and so has to be looked up."""
        self._notify(f"training of {solution}")
        self._create(self._client.create_solution_version, solutionArn=solution, name="one")
        answer = self._client.list_solution_versions(solutionArn=solution)["solutionVersions"]
        return self._wait_until_active(answer[0]["solutionVersionArn"])

    def _create(self, create: Callable[..., Any], **params: Any) -> None:
        exceptions = self._client.exceptions
        while True:
            try:
                create(**params)
            except exceptions.ResourceAlreadyExistsException:
                return
            except exceptions.LimitExceededException:
                time.sleep(0.01)
            else:
                return

    def _wait_until_active(self, arn: str) -> str:
        for _ in poll_until_deadline():
            description = describe(self._client, arn)
            if description.get("status", "ACTIVE") == "ACTIVE":
                return arn
            assert description["status"] in ("CREATE PENDING", "CREATE IN_PROGRESS"), description
        raise AssertionError(f"{arn} never ends")


def _run_chain_and_report(root: Path, batches: list[str], writer: Connection) -> None:
    chain = Chain(root, writer.send)
    chain.run(batches)
    chain.close()


def _start_chain(root: Path, batches: list[str]) -> tuple[ForkServerProcess, Connection]:
    """A process that works on the chain, and a connection with the names of its steps."""
    reader, writer = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run_chain_and_report, args=(root, batches, writer), daemon=True)
    process.start()
    writer.close()
    return process, reader


def _finish_chain(root: Path, batches: list[str]) -> None:
    """Opens the home and sees the work through, as the next run of a pipeline does."""
    chain = Chain(root)
    try:
        chain.run(batches)
    finally:
        chain.close()


def _create_root(folder: Path) -> Path:
    store = ObjectStore(folders={"data": folder / "storage"})
    store.put("s3://data/first.csv", encode_csv(build_taste_rows(seed=1)))
    store.put("s3://data/second.csv", encode_csv(build_taste_rows(seed=2)))
    for number in range(2):
        users = [f"u{n}" for n in range(number, 60, 2)]
        store.put(f"s3://data/users/{number}.json", encode_user_lines(users))
        store.put(f"s3://data/items/{number}.json", f'{{"itemId":"i{number}"}}\n'.encode())
    return folder


@dataclass
class ChainResult:
    """What a chain leaves behind: files by name, and what the service describes."""

    outputs: dict[str, bytes]
    models: list[dict[str, bytes]]
    datasets: list[dict[str, bytes]]
    descriptions: list[Any]


def _read_result(root: Path) -> ChainResult:
    """Reads what a chain left, and checks that the home holds no file that no resource owns."""
    home = root / "home"
    store = ObjectStore(folders={"data": root / "storage"})
    service = LocalPersonalize(home, store)
    try:
        descriptions = _describe_all(make_client(service))
    finally:
        service.close()
    assert not list((home / "batches").iterdir())
    assert not list((home / "owners").iterdir())
    assert {p.name.partition("-")[0] for p in home.iterdir() if p.is_file()} == {
        "catalog.lock",
        "catalog.sqlite",
    }
    outputs = {info.uri: store.get(info.uri) for info in store.list("s3://data/out/")}
    models = [_read_files(folder) for folder in sorted((home / "models").iterdir())]
    datasets = [_read_files(folder) for folder in (home / "datasets").iterdir()]
    return ChainResult(outputs, models, datasets, descriptions)


def _read_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _describe_all(client: PersonalizeClient) -> list[Any]:
    """Names, statuses and metrics of all resources: what two chains have in common."""
    descriptions: list[Any] = []
    for kind in ("dataset_groups", "schemas", "datasets", "dataset_import_jobs", "filters"):
        descriptions.append(_list_names(getattr(client, f"list_{kind}")()))
    descriptions.append(_list_names(client.list_batch_inference_jobs()))
    descriptions.append(_list_names(client.list_batch_segment_jobs()))
    for solution in client.list_solutions()["solutions"]:
        versions = client.list_solution_versions(solutionArn=solution["solutionArn"])
        (version,) = versions["solutionVersions"]
        metrics = client.get_solution_metrics(solutionVersionArn=version["solutionVersionArn"])
        descriptions.append((solution["name"], version["status"], metrics["metrics"]))
    return descriptions


def _list_names(answer: Any) -> list[tuple[str, str]]:
    (entries,) = (value for value in answer.values() if isinstance(value, list))
    return sorted((e.get("name") or e["jobName"], e.get("status", "ACTIVE")) for e in entries)


UndisturbedRun = tuple[ChainResult, dict[str, float]]


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory) -> UndisturbedRun:
    """The result of a chain that runs undisturbed, and the seconds that each of its steps took."""
    roots = [_create_root(tmp_path_factory.mktemp("undisturbed")) for _ in range(2)]
    for root in roots:  # the first warms the machine up
        process, reader = _start_chain(root, ["batch"])
        began: dict[str, float] = {}
        with contextlib.suppress(EOFError):
            while True:
                began[reader.recv()] = time.monotonic()
        ends = [*began.values(), time.monotonic()][1:]
        process.join(600)
        assert process.exitcode == 0
    result = _read_result(roots[1])
    assert result == _read_result(roots[0])
    pairs = zip(began.items(), ends, strict=True)
    return result, {step: end - begin for (step, begin), end in pairs}


def test_an_undisturbed_chain_leaves_the_expected_files(undisturbed_run: UndisturbedRun) -> None:
    result, _ = undisturbed_run
    folders = [f"s3://data/out/batch-{recipe}/" for recipe in sorted(RECIPES)]
    files = ("0.json.out", "1.json.out", "_CHECK")
    assert list(result.outputs) == sorted(folder + file for folder in folders for file in files)
    assert len(result.models) == len(RECIPES)
    assert len(result.datasets) == 1


def _draw_moments(seconds: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Steps, and how many seconds after one has begun: imports, trainings and batches in turn."""
    rng = random.Random(SEED)
    kinds = [[step for step in seconds if kind in step] for kind in ("import", "training", "batch")]
    for number in range(MOMENTS):
        step = rng.choice(kinds[number % len(kinds)])
        yield step, rng.random() * seconds[step]


def test_killed_at_any_moment_every_job_ends_right(
    tmp_path: Path, undisturbed_run: UndisturbedRun
) -> None:
    expected, seconds = undisturbed_run
    for number, (step, moment) in enumerate(_draw_moments(seconds)):
        root = _create_root(tmp_path / str(number))
        process, reader = _start_chain(root, ["batch"])
        while reader.recv() != step:
            pass
        time.sleep(moment)
        process.kill()
        process.join()
        _finish_chain(root, ["batch"])
        assert _read_result(root) == expected, f"killed {moment:.3f} s after {step}"
        shutil.rmtree(root)


def test_processes_do_the_same_and_other_work_on_one_home(
    tmp_path: Path, undisturbed_run: UndisturbedRun
) -> None:
    """All processes do one chain, and each a batch of its own. Two of them are killed."""
    expected, seconds = undisturbed_run
    root = _create_root(tmp_path)
    rng = random.Random(SEED)
    chains = [_start_chain(root, ["batch", f"own{n}"]) for n in range(PROCESSES)]
    processes = [process for process, _ in chains]
    for process in processes[:2]:
        time.sleep(rng.random() * sum(seconds.values()))
        process.kill()
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes[2:]] == [0] * (PROCESSES - 2)
    for number in range(2):
        _finish_chain(root, ["batch", f"own{number}"])

    result = _read_result(root)
    assert result.datasets == expected.datasets
    assert result.models == expected.models
    own = {
        name.replace("/out/batch-", f"/out/own{n}-"): data
        for n in range(PROCESSES)
        for name, data in expected.outputs.items()
    }
    assert result.outputs == expected.outputs | own
    batches = ["batch", *(f"own{n}" for n in range(PROCESSES))]
    assert result.descriptions == [
        _repeat_for_batches(batches, entry) for entry in expected.descriptions
    ]


def _repeat_for_batches(batches: list[str], description: Any) -> Any:
    """The description with an entry for every batch name, if it describes batches."""
    if "('batch-" not in str(description):
        return description
    names = [(name.removeprefix("batch"), status) for name, status in description]
    return sorted((batch + name, status) for batch in batches for name, status in names)


def test_leftovers_of_killed_processes_are_removed(local: Local) -> None:
    """A kill at some moments leaves files that no later attempt would remove."""
    _, dataset = local.import_rows(build_taste_rows())
    home = local.root / "home"
    dataset_folders = list((home / "datasets").iterdir())
    slow = local.open_idle_client()
    waiting = slow.create_dataset_import_job(
        jobName="waiting", datasetArn=dataset, dataSource={"dataLocation": "s3://data/x.csv"}
    )["datasetImportJobArn"]
    attempt = Home(home).make_path(home / "datasets", waiting)
    attempt.touch()  # of work that somebody may have in hand
    replaced_path = Home(home).make_path(home / "datasets", waiting.replace("waiting", "first"))
    replaced_path.touch()
    model = Home(home).make_path(home / "models", f"{ACCOUNT}solution/films/0123abcd")
    (model / "part").mkdir(parents=True)
    (home / "owners" / "1-dead.owner").touch()
    local.open_idle_client()
    assert sorted((home / "datasets").iterdir()) == sorted([*dataset_folders, attempt])
    assert not list((home / "models").iterdir())
    assert not list((home / "owners").glob("1-dead*"))
