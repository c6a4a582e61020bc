"""Several lists of one model: one training, the jobs that they need, and each list on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.storage.object_store import ObjectStore, StorageError
from batchrec_dagster.storage.published_table import PublishedTable
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    module_project,
    write_ratings,
)

pytestmark = pytest.mark.slow

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


def write_shop(project: Project) -> None:
    """The files of a shop whose items have one of four colours, and half of whose users agree."""
    root = project.root
    write_ratings(root / "ratings.csv")
    items = [f"{item},{['red', 'green', 'blue', 'grey'][item % 4]}" for item in range(1, 81)]
    (root / "items.csv").write_text("\n".join(["item,colour", *items]) + "\n")
    users = [f"{user},{'yn'[user % 2]}" for user in range(1, 61)]
    (root / "customers.csv").write_text("\n".join(["customer,consent", *users]) + "\n")
    (root / "blocked.csv").write_text("item\n2\n")


def declare(project: Project, lists: dict[str, Any], **settings: Any) -> None:
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items={
                "source": "items.csv",
                "columns": {"item": "item", "categories": {"COLOUR": "colour"}},
            },
            users={
                "source": "customers.csv",
                "columns": {"user": "customer", "categories": {"CONSENT": "consent"}},
            },
            solution={"compare_with_popularity": False},
            lists=lists,
            **settings,
        )
    )


def run_job(
    project: Project, instance: dg.DagsterInstance, job: str = "shop_refresh", **config: Any
) -> dg.ExecuteInProcessResult:
    """Run the job without the reports, which take a third of a small run."""
    with definitions(project) as defs:
        resolved = defs.resolve_job_def(job)
        keys = resolved.asset_layer.selected_asset_keys
        selection = [key for key in keys if key.path[-1] != "recommendation_report"]
        return resolved.execute_in_process(
            instance=instance,
            asset_selection=selection,
            run_config={"ops": config} if config else None,
            raise_on_error=False,
        )


def read_list(project: Project, name: str) -> pl.DataFrame:
    folder = project.storage / "shop/lists" / name / "curated/recommendations"
    return pl.read_parquet(folder / "recommendations.parquet")


def list_metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = [
        event
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(["shop", name, "recommendations"])
    ]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def count_jobs(project: Project) -> tuple[int, int]:
    """How many models were trained, and how many batch inference jobs there are."""
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    versions = client.list_solution_versions()["solutionVersions"]
    return len(versions), len(client.list_batch_inference_jobs()["batchInferenceJobs"])


def failed_steps(result: dg.ExecuteInProcessResult) -> set[str]:
    return {event.step_key or "" for event in result.all_events if event.is_step_failure}


def test_a_list_that_fails_stops_no_other_and_goes_on_from_the_job_that_was_made(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    write_shop(project)
    declare(project, LISTS)
    publish = PublishedTable.publish

    def fail(table: PublishedTable, *arguments: Any) -> Any:
        if "/home/" in table.uri:
            raise StorageError("the disk is full")
        return publish(table, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PublishedTable, "publish", fail)
        first_run = run_job(project, instance)
    assert failed_steps(first_run) == {"shop__home__recommendations"}
    assert count_jobs(project) == (1, 2)
    assert read_list(project, "newsletter").get_column("user_id").n_unique() == 30
    assert "colour" in read_list(project, "app").columns

    second_run = run_job(project, instance)
    assert second_run.success
    # Neither the model nor a job was made again, though the run deleted what is not needed.
    assert count_jobs(project) == (1, 2)
    home, app = list_metadata(second_run, "home"), list_metadata(second_run, "app")
    assert home["batch_inference_job_arn"] == app["batch_inference_job_arn"]
    assert home["edition"] == app["edition"] == 1
    assert read_list(project, "home").height == 60 * 8
    assert (tmp_path / "mail.csv").read_text().count("\n") == 31
