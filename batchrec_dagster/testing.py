"""Pytest fixtures for testing your own pipelines.

`run_pipeline` runs one of your project's pipelines in a temporary home, in seconds:

    pytest_plugins = ["batchrec_dagster.testing"]


    def test_everyone_gets_a_list(run_pipeline):
        run = run_pipeline("shop", {"ratings.source": "tests/orders.csv"})
        assert run.lists["user_id"].n_unique() == 60

`local_personalize` is a local Personalize with storage to test against:


    def test_my_pipeline(local_personalize):
        local_personalize.put("ratings.csv", b"...")
        my_pipeline(local_personalize.client, bucket=local_personalize.bucket)
        assert local_personalize.get("out/users.json.out")

Every test gets a new, empty Personalize, which is deleted after the test. It really imports, trains
and recommends, without simulated waiting. Programs that accept no client, such as the `aws`
command, reach it through the variables in `local_personalize.environment`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from batchrec_dagster.local_personalize.api.client import make_client
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.storage.objects import ObjectStore

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    import uvicorn
    from types_boto3_personalize import PersonalizeClient

    from batchrec_dagster.cli.project import Project
    from batchrec_dagster.config import ListTable, Pipeline
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.pipeline.deployment import Deployment

_SLEEP_SECONDS = 0.01
# The seconds between two polls of a job. The embedded Personalize takes milliseconds.
_POLL_SECONDS = "0.02"
# The variables that point to a real deployment's files and resources. Tests must not reach them.
_DEPLOYMENT_VARIABLES = (
    "BATCHREC_STORAGE",
    "BATCHREC_PERSONALIZE",
    "BATCHREC_ROLE_ARN",
    "BATCHREC_TAGS",
)


class StartedPersonalize:
    """A local Personalize in a folder, and a bucket for its data."""

    role_arn = "arn:aws:iam::000000000000:role/personalize"
    """A role for requests that need one."""
    region: str
    bucket: str
    """The name of the bucket in `store`."""
    store: ObjectStore
    """The storage that holds the bucket."""
    client: PersonalizeClient
    """A boto3 `personalize` client."""

    def __init__(self, folder: Path, *, bucket: str = "test-bucket") -> None:
        """Start a local Personalize that keeps all its files in `folder`."""
        self.bucket = bucket
        self.store = ObjectStore(folders={bucket: folder / "storage"})
        self._service = LocalPersonalize(folder / "home", self.store)
        self.region = self._service.region
        self.client = make_client(self._service)
        self._server: tuple[uvicorn.Server, threading.Thread] | None = None

    def uri(self, key: str) -> str:
        """Return `s3://BUCKET/KEY`, the URI of an object in requests."""
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, data: bytes) -> str:
        """Write an object and return its URI."""
        self.store.put(self.uri(key), data)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        """Return the object's bytes. Raises storage.objects.ObjectNotFoundError."""
        return self.store.get(self.uri(key))

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that start with `prefix`, in order."""
        objects = self.store.list(self.uri(prefix))
        return [info.uri.removeprefix(self.uri("")) for info in objects]

    @cached_property
    def endpoint_url(self) -> str:
        """The URL of the local Personalize's HTTP server, which starts on first use."""
        # Imported here because the import takes half a second, which tests with a client can save.
        import uvicorn

        from batchrec_dagster.local_personalize.api.server import make_application

        app = make_application(self._service)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
        thread = threading.Thread(target=server.run, name="personalize-http", daemon=True)
        self._server = server, thread
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the local Personalize's server does not start")
            time.sleep(_SLEEP_SECONDS)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which AWS SDKs and the `aws` command reach this Personalize.

        No AWS account is needed.
        """
        return {
            "AWS_ENDPOINT_URL_PERSONALIZE": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": self.region,
        }

    def close(self) -> None:
        """Stop the local Personalize. Unfinished jobs stay unfinished."""
        if self._server:
            server, thread = self._server
            server.should_exit = True
            thread.join()
        self._service.close()


class RunFailedError(AssertionError):
    """A failed run of a pipeline. The message says which step failed, and why."""


class PipelineRun:
    """A finished run of a pipeline, with the lists, files and metadata that it left."""

    def __init__(
        self,
        pipeline: Pipeline,
        deployment: Deployment,
        result: dg.ExecuteInProcessResult,
    ) -> None:
        self._pipeline, self._deployment, self._result = pipeline, deployment, result

    @property
    def success(self) -> bool:
        """Whether the run succeeded."""
        return self._result.success

    @property
    def reason(self) -> str:
        """The failed steps and the reasons, one line per step; empty if no step failed."""
        from batchrec_dagster.pipeline.failure_reasons import find_failure_reason

        events = [event for event in self._result.all_events if event.is_step_failure]
        return "\n".join(f"{event.step_key}: {find_failure_reason(event)}" for event in events)

    @property
    def home(self) -> Path:
        """The folder with everything that the run left: storage, models and report."""
        return self._deployment.home

    @property
    def lists(self) -> pl.DataFrame:
        """The published lists: user_id, rank, item_id and further columns.

        Raises ValueError if the pipeline has several lists.
        """
        lists = self._pipeline.user_lists
        if len(lists) > 1:
            names = ", ".join(published.name for published in lists)
            raise ValueError(f"{self._pipeline.name} has several lists: use lists_of, with {names}")
        return self._read(lists[0])

    def lists_of(self, name: str) -> pl.DataFrame:
        """Return the published lists named `name` in the pipeline's `lists`.

        Raises KeyError if the pipeline has no such lists.
        """
        for published in self._pipeline.user_lists:
            if published.name == name:
                return self._read(published)
        raise KeyError(f"{self._pipeline.name} has no list {name}")

    def _read(self, published: ListTable) -> pl.DataFrame:
        from batchrec_dagster.editions.files import ListFiles

        files = ListFiles(self._deployment.open_storage(), published.keys)
        _, frame = files.editions.read()
        return frame.collect()

    def metadata(self, asset: str) -> dict[str, Any]:
        """Return the metadata that an asset, such as `interactions`, reported in this run.

        Raises KeyError if the run did not make the asset.
        """
        path = self._pipeline.asset_key(asset)
        for event in self._result.get_asset_materialization_events():
            if event.asset_key is not None and event.asset_key.path == path:
                metadata = event.materialization.metadata
                return {name: value.value for name, value in metadata.items()}
        raise KeyError(f"{'/'.join(path)} was not made")

    @property
    def failed_checks(self) -> list[str]:
        """The names of the checks that did not pass, including checks that only warn."""
        evaluations = self._result.get_asset_check_evaluations()
        return [evaluation.check_name for evaluation in evaluations if not evaluation.passed]


class RunPipeline(Protocol):
    """A function that runs one of the project's pipelines."""

    def __call__(
        self,
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        report: bool = False,
        may_fail: bool = False,
    ) -> PipelineRun:
        """Run a pipeline, and return the finished run.

        name: the pipeline's name, or its folder below defs/.
        settings: the settings to change for this run, by path such as `ratings.source`. Relative
            paths start at the project's folder.
        report: whether to make the report too.
        may_fail: whether to return a failed run. Otherwise a failed run raises RunFailedError.
        """


@pytest.fixture
def run_pipeline(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> RunPipeline:
    """Return a function that runs the project's pipelines on the embedded Personalize.

    The project is found from the working folder. Each run has its own home, writes to no sinks and
    sends no alerts.
    """
    # Imported here because these imports take seconds, which other tests can save.
    import dagster as dg

    from batchrec_dagster.cli.project import find_project
    from batchrec_dagster.pipeline.assets.table import list_assets
    from batchrec_dagster.pipeline.deployment import Deployment

    def run(
        name: str,
        settings: Mapping[str, Any] | None = None,
        *,
        report: bool = False,
        may_fail: bool = False,
    ) -> PipelineRun:
        project = find_project()
        with monkeypatch.context() as environment:
            environment.syspath_prepend(project.code)
            for variable in _DEPLOYMENT_VARIABLES:
                environment.delenv(variable, raising=False)
            environment.setenv("BATCHREC_HOME", str(tmp_path_factory.mktemp("batchrec")))
            environment.setenv("BATCHREC_POLL_SECONDS", _POLL_SECONDS)
            declared = _load_pipeline(project, name)
            pipeline = declared.change(settings or {}, project.root)
            deployment = Deployment.from_environment()
            deployment.make_home()
            result = dg.materialize(
                declared.build_assets(list_assets(pipeline, report=report, sinks=False)),
                resources=deployment.resources(),
                raise_on_error=False,
            )
        finished = PipelineRun(pipeline, deployment, result)
        if not finished.success and not may_fail:
            raise RunFailedError(finished.reason)
        return finished

    return run


def _load_pipeline(project: Project, name: str) -> BatchRecommendations:
    """Return the declared pipeline with this name, or in this folder below defs/.

    Raises DeclarationError if a declaration is invalid, and UnknownNameError if no pipeline
    matches.
    """
    from batchrec_dagster.cli.pipelines import make_undeclared_error
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.pipeline.component_files import find_component_file, list_component_files
    from batchrec_dagster.pipeline.loading import load_components

    own_file = find_component_file(project.defs / name)
    files = [own_file] if own_file else list_component_files(project.defs)
    pipelines = [
        pipeline
        for file in files
        for pipeline in load_components(project.defs, file.parent, BatchRecommendations)
    ]
    named = [pipeline for pipeline in pipelines if pipeline.name == name]
    if not named and not own_file:
        raise make_undeclared_error(name, [pipeline.name for pipeline in pipelines])
    return (named or pipelines)[0]


@pytest.fixture
def local_personalize(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedPersonalize]:
    """Yield a new, empty local Personalize with storage, and stop it after the test."""
    started = StartedPersonalize(tmp_path_factory.mktemp("personalize"))
    try:
        yield started
    finally:
        started.close()
