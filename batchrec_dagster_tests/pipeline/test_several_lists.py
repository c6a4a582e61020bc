"""Several lists of one model: one training, the jobs that they need, and each list on its own."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    copied_project,
    declaration,
    definitions,
    killed_at,
    log_on_level_debug,
    module_project,
    real_data,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import IS_LONG
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.teardown import tear_down

pytestmark = pytest.mark.slow

USERS, CONSENTING = 60, 30
LISTS: dict[str, Any] = {
    "newsletter": {
        "users": {"source": "customers.csv", "column": "customer", "filter": 'USERS.CONSENT = "y"'},
        "num_results": 5,
        "rules": {"max_per": {"COLOUR": 2}, "block": {"source": "blocked.csv"}},
        "sinks": {"export": {"path": "mail.csv"}},
    },
    "home": {"num_results": 8},
    "app": {"num_results": 4, "columns": ["COLOUR"], "rules": {"max_per": {"COLOUR": 1}}},
}
REFRESH = ("dagster", "job", "execute", "-m", "batchrec_dagster.definitions", "-j", "shop_refresh")


def write_shop(project: Project) -> None:
    """The files of a shop whose items have one of four colours, and half of whose users agree."""
    root, colours = project.root, ["red", "green", "blue", "grey"]
    write_ratings(root / "ratings.csv", users=USERS)
    items = [f"{item},{colours[item % 4]}" for item in range(1, 81)]
    (root / "items.csv").write_text("\n".join(["item,colour", *items]) + "\n")
    customers = [f"{user},{'yn'[user % 2]}" for user in range(1, USERS + 1)]
    (root / "customers.csv").write_text("\n".join(["customer,consent", *customers]) + "\n")
    (root / "blocked.csv").write_text("item\n2\n")


def declare(project: Project, lists: dict[str, Any]) -> None:
    items = {"item": "item", "categories": {"COLOUR": "colour"}}
    users = {"user": "customer", "categories": {"CONSENT": "consent"}}
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items={"source": "items.csv", "columns": items},
            users={"source": "customers.csv", "columns": users},
            lists=lists,
        )
    )


@dataclass
class Shop:
    """A shop whose runs are in this process, with its storage in a folder or in S3."""

    project: Project
    instance: dg.DagsterInstance
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The metadata that the last run gave each list, by its name."""

    @cached_property
    def deployment(self) -> Deployment:
        home = {"BATCHREC_HOME": str(self.project.root / ".batchrec")}
        return Deployment.from_environment({**home, **self.project.environment})

    def run(self, job: str = "shop_refresh", *, report: bool = False) -> set[str]:
        """Run the job, and return the assets that failed. Reports take a third of a small run."""
        with definitions(self.project) as defs:
            resolved = defs.resolve_job_def(job)
            keys = resolved.asset_layer.selected_asset_keys
            result = resolved.execute_in_process(
                instance=self.instance,
                asset_selection=[
                    key for key in keys if report or key.path[-1] != "recommendation_report"
                ],
                raise_on_error=False,
            )
        self.results = {
            event.asset_key.path[1]: {
                key: value.value for key, value in event.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if event.asset_key is not None and event.asset_key.path[2:] == ["recommendations"]
        }
        return {event.step_key or "" for event in result.all_events if event.is_step_failure}

    def tear_down(self) -> bool:
        """Delete everything, and return whether that worked."""
        return tear_down(self.project, "shop", self.instance, "--storage").exit_code == 0

    def read_list(self, name: str) -> pl.DataFrame:
        key = f"shop/lists/{name}/curated/recommendations/recommendations.parquet"
        storage = self.deployment.open_storage()
        return pl.read_parquet(io.BytesIO(storage.store.get(storage.uri(key))))

    def read_files(self) -> Iterator[tuple[str, bytes]]:
        storage = self.deployment.open_storage()
        for info in storage.store.list(storage.uri("shop/")):
            yield info.uri, storage.store.get(info.uri)

    def make_work(self) -> PersonalizeWork:
        with definitions(self.project) as defs:
            assert defs.component_tree is not None
            (component,) = defs.component_tree.get_all_components(BatchRecommendations)
            pipeline = component.in_project(self.project.root)
        personalize = self.deployment.personalize_resource
        ensure = personalize.ensure(logging.getLogger(), pipeline.tags)
        storage = self.deployment.open_storage()
        return PersonalizeWork(pipeline, storage, ensure, personalize.read_prices())


def count_jobs(project: Project, store: ObjectStore | None = None) -> tuple[int, int]:
    """How many models were trained, and how many batch inference jobs there are."""
    client = embedded_client(project.root / ".batchrec" / "personalize", store or ObjectStore())
    versions = client.list_solution_versions()["solutionVersions"]
    return len(versions), len(client.list_batch_inference_jobs()["batchInferenceJobs"])


# In S3 the same takes 13 seconds of the server's time.
@pytest.fixture(params=["folder", *(["s3"] if IS_LONG else [])])
def shop(request: pytest.FixtureRequest, tmp_path: Path, instance: dg.DagsterInstance) -> Shop:
    project = module_project(tmp_path)
    if request.param == "s3":
        s3: S3Server = request.getfixturevalue("s3")
        root = f"s3://{s3.create_bucket()}"
        project.environment = {**s3.environment(), "BATCHREC_STORAGE": root}
    write_shop(project)
    declare(project, LISTS)
    return Shop(project, instance)


@pytest.mark.skipif(not IS_LONG, reason="three processes for each kill")
@pytest.mark.parametrize(
    "moment",
    [
        "__recommendations - created batch inference job",
        "home__recommendations - home and app share",
        "newsletter__recommendations - batch inference job",
        "newsletter__recommendation_outcomes - STEP_START",
    ],
)
def test_a_run_killed_in_a_list_goes_on_and_makes_nothing_twice(
    tmp_path: Path, moment: str
) -> None:
    project = copied_project(tmp_path)
    write_shop(project)
    declare(project, LISTS)
    killed_at(project, (*REFRESH, *log_on_level_debug(project)), moment)
    second_run = project.run(*REFRESH)
    assert second_run.returncode == 0, second_run.stdout + second_run.stderr
    assert count_jobs(project) == (1, 2)


@pytest.mark.skipif(not IS_LONG, reason="three processes")
def test_lists_that_are_made_at_the_same_time_share_one_job(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_shop(project)
    declare(project, LISTS)
    command = ("dagster", "asset", "materialize", "-m", "batchrec_dagster.definitions", "--select")
    upstream = project.run(*command, "+key:shop/solution_version or key:shop/batch_users")
    assert upstream.returncode == 0, upstream.stderr

    def make_list(name: str) -> int:
        # A history for each: Dagster's own storage sometimes fails where two processes set one up.
        home = tmp_path / name
        home.mkdir()
        shutil.copy(project.root / "dagster.yaml", home)
        environment = {"DAGSTER_HOME": str(home)}
        run = replace(project, environment=environment).run(
            *command, f"key:shop/{name}/recommendations"
        )
        return run.returncode

    with ThreadPoolExecutor() as pool:
        assert [*pool.map(make_list, ("home", "app"))] == [0, 0]
    assert count_jobs(project) == (1, 1)


@pytest.mark.skipif(not IS_LONG, reason="trains on real data")
def test_a_list_from_a_shared_job_is_as_from_a_job_of_its_own(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    source = real_data("ml-latest-small") / "ratings.csv"
    project = module_project(tmp_path)
    short = {"num_results": 10}
    project.declare(declaration("alone", source, recommendations=short))
    project.declare(
        declaration("shop", source, lists={"short": short, "long": {"num_results": 80}})
    )
    assert refresh(project, "alone", instance).success
    shop = Shop(project, instance)
    assert shop.run() == set()
    short_list = shop.read_list("short")
    assert shop.results["short"]["results_asked_for"] == 80
    assert_frame_equal(short_list, table(project, "alone"))
    first_ten = shop.read_list("long").filter(pl.col("rank") <= 10)
    assert_frame_equal(first_ten, short_list)
