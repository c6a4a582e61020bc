"""Tests that a pipeline fits into a team's code location, and leaves the team's things alone."""

from __future__ import annotations

import importlib
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from click.testing import CliRunner

import batchrec_dagster
from batchrec_dagster import published
from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    ASSETS,
    REPOSITORY,
    Project,
    checks,
    declaration,
    definitions,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import FirstRun

# The team's asset downstream of the lists, under the pipeline's prefix and in its group.
OF_THE_TEAM = """\
import dagster as dg

@dg.asset(key_prefix="shop", group_name="shop", deps=[dg.AssetKey(["shop", "recommendations"])])
def mailing() -> None: ...
"""
# The team's partitioned upstream asset.
ORDERS_BY_DAY = """\
import dagster as dg

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-05")

@dg.asset(key_prefix="sales", partitions_def=days)
def orders() -> None: ...
"""


@pytest.fixture
def team(project: Project) -> Project:
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    (project.package / "defs" / "mailing.py").write_text(OF_THE_TEAM)
    return project


def post_process(project: Project, **attributes: Any) -> None:
    """Change all assets of the pipeline by Dagster's post-processing, like a team."""
    file = project.package / "defs" / "shop" / "defs.yaml"
    change = {"assets": [{"target": "*", "attributes": attributes}]}
    declared = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**declared, "post_processing": change}))


OF_ANALYSTS = """\
from typing import Optional
import dagster as dg
import pandas as pd
import polars as pl
import batchrec_dagster

shop = batchrec_dagster.published("shop")

@dg.asset(ins={"lists": dg.AssetIn(key=shop.key, metadata={"columns": ["user_id", "rank"]})})
def few(lists: pl.DataFrame) -> list[str]:
    return lists.columns

@dg.asset(ins={"lists": dg.AssetIn(key=shop.key)})
def whole(lists: pd.DataFrame) -> int:
    return len(lists)

other = batchrec_dagster.published("other")

@dg.asset(ins={"lists": dg.AssetIn(key=other.key)})
def none(lists: Optional[pl.DataFrame]) -> bool:
    return lists is None
"""


def select_assets(defs: dg.Definitions, job: str) -> set[str]:
    keys = defs.resolve_job_def(job).asset_layer.executable_asset_keys
    return {key.to_user_string() for key in keys}


@pytest.mark.parametrize("group", [None, "marketing"])
def test_jobs_select_what_the_pipeline_made(team: Project, group: str | None) -> None:
    if group:
        post_process(team, group_name=group)
    with definitions(team) as defs:
        refreshed_assets = select_assets(defs, "shop_refresh")
        rolled_back_assets = select_assets(defs, "shop_rollback")
    assert {"shop/recommendations", "shop/recommendation_report"} <= rolled_back_assets
    assert {"shop/raw_ratings", *rolled_back_assets} <= refreshed_assets
    assert "shop/mailing" not in refreshed_assets


def read_example(marker: str) -> str:
    """Return the only example of docs/plug-in.md that has this text."""
    page = (REPOSITORY / "docs" / "plug-in.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (text,) = (block for block in blocks if marker in block)
    return str(text)


def test_post_processing_fits_the_assets_into_the_project(
    project: Project, instance: dg.DagsterInstance
) -> None:
    folder = project.package / "defs" / "shop"
    folder.mkdir()
    (folder / "defs.yaml").write_text(read_example("post_processing:"))
    (folder / "variables.py").write_text(read_example("@dg.template_var"))
    (project.package / "defs" / "orders.py").write_text(ORDERS_BY_DAY)
    lists, orders = dg.AssetKey(["shop", "recommendations"]), dg.AssetKey(["sales", "orders"])
    with definitions(project) as defs:
        graph = defs.resolve_asset_graph()
        for key in graph.materializable_asset_keys - {orders}:
            node = graph.get(key)
            assert node.group_name == "marketing"
            assert node.owners == ["team:data"]
            assert node.tags["domain"] == "marketing"
        policy = graph.get(lists).freshness_policy
        assert isinstance(policy, type(dg.FreshnessPolicy.cron("@daily", timedelta(hours=1))))
        # An open browser keeps an event loop running in the main thread.
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(dg.evaluate_automation_conditions, defs, instance).result()
            # Three of four days are missing.
            one_day = dg.AssetMaterialization(orders, partition="2026-01-02")
            instance.report_runless_asset_event(one_day)
            requested = thread.submit(
                dg.evaluate_automation_conditions, defs, instance, cursor=first.cursor
            ).result()
        assert requested.get_num_requested(lists) == 1
        assert {f"shop/{name}" for name in ASSETS} == {
            key.to_user_string() for key in graph.materializable_asset_keys - {orders}
        }


def test_op_says_how_dagster_runs_each_step(team: Project) -> None:
    settings = {
        "*": {"pool": "personalize", "tags": {"size": "small"}},
        "solution_version": {"tags": {"size": "large"}, "retries": {"max_retries": 1}},
        "home/recommendations": {"pool": "lists", "retries": {"delay_seconds": 5}},
    }
    team.declare(declaration("shop", "ratings.csv", lists={"home": {}, "mail": {}}, op=settings))
    (team.package / "defs" / "mailing.py").unlink()
    with definitions(team) as defs:
        ops = {
            asset.key.to_user_string(): asset.op for asset in defs.resolve_asset_graph().assets_defs
        }
    raw, model = ops["shop/raw_ratings"], ops["shop/solution_version"]
    home, mail = (ops[published(f"shop/{name}").key.to_user_string()] for name in ("home", "mail"))
    assert {op.pool for op in (raw, model, mail)} == {"personalize"}
    assert home.pool == "lists"
    assert [op.tags["size"] for op in (raw, model, home)] == ["small", "large", "small"]
    assert raw.retry_policy is None
    assert model.retry_policy == dg.RetryPolicy(1, 60, dg.Backoff.EXPONENTIAL)
    assert home.retry_policy == dg.RetryPolicy(2, 5, dg.Backoff.EXPONENTIAL)


@pytest.mark.slow
def test_a_subclass_changes_specs_and_steps_and_adds_a_check(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    (project.package / "lists.py").write_text(read_example("def get_asset_spec"))
    file = project.declare(declaration("shop", "ratings.csv"))
    kind = f"{project.package.name}.lists.ShopRecommendations"
    file.write_text(file.read_text().replace("batchrec_dagster.BatchRecommendations", kind))
    with definitions(project) as defs:
        specs = {spec.key.path[-1]: spec for spec in defs.resolve_all_asset_specs()}
        result = defs.resolve_job_def("shop_refresh").execute_in_process(instance=instance)
    assert {tuple(spec.owners) for spec in specs.values()} == {("team:data",)}
    priced = [name for name, spec in specs.items() if spec.tags.get("costs") == "money"]
    assert priced == ["solution_version"]
    assert specs["solution_version"].code_version
    assert checks(result)["many_items"].passed
    assert checks(result)["every_user_answered"].passed
    told = [entry.user_message for entry in instance.all_logs(result.run_id)]
    for name in specs:
        assert f"{name}: see the runbook of the data team if this fails" in told


OF_A_SUBCLASS = """\
import dagster as dg
from batchrec_dagster import BatchRecommendations, PipelineAsset

class ShopRecommendations(BatchRecommendations):
    def get_asset_spec(self, asset: PipelineAsset) -> dg.AssetSpec:
        return dg.AssetSpec(asset.spec.key, deps=asset.spec.deps).replace_attributes(
            metadata={"runbook": "wiki/shop"}
        )
"""


@pytest.mark.slow
def test_a_subclass_replaces_the_metadata_of_specs(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    (project.package / "lists.py").write_text(OF_A_SUBCLASS)
    file = project.declare(declaration("shop", "ratings.csv"))
    kind = f"{project.package.name}.lists.ShopRecommendations"
    file.write_text(file.read_text().replace("batchrec_dagster.BatchRecommendations", kind))
    for _ in range(2):
        with definitions(project) as defs:
            specs = defs.resolve_all_asset_specs()
            result = defs.resolve_job_def("shop_refresh").execute_in_process(
                instance=instance, raise_on_error=False
            )
        assert result.success, why(result)
        assert {spec.metadata["runbook"] for spec in specs} == {"wiki/shop"}


@pytest.mark.slow
def test_lists_are_loaded_in_another_code_location(
    first_run: FirstRun, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = pl.read_parquet(first_run.lists).height
    monkeypatch.setenv("BATCHREC_HOME", str(first_run.folder / ".batchrec"))
    scope: dict[str, Any] = {}
    exec(OF_ANALYSTS, scope)
    theirs = dg.Definitions(
        assets=[scope[name] for name in ("shop", "other", "few", "whole", "none")],
        resources={**batchrec_dagster.resources(), "io_manager": dg.mem_io_manager},
    )
    loaded = theirs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
    assert loaded.output_for_node("few") == ["user_id", "rank"]
    assert loaded.output_for_node("whole") == count
    assert loaded.output_for_node("none") is True


def test_partitions_that_mean_nothing_are_refused(
    team: Project, instance: dg.DagsterInstance
) -> None:
    daily = {"type": "daily", "start_date": "2026-01-01"}
    post_process(team, partitions_def=daily)
    with definitions(team) as defs:
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", "raw_ratings"])],
            partition_key="2026-01-02",
            raise_on_error=False,
        )
    assert why(result).startswith("shop has no partitions: each run makes the lists of all ratings")


@pytest.mark.slow
def test_check_judges_by_the_projects_own_definitions(
    team: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The team's definitions take a key that batchrec would use."""
    monkeypatch.chdir(team.root)
    monkeypatch.setenv("BATCHREC_HOME", str(team.root / ".batchrec"))
    definitions_file = team.package / "definitions.py"
    definitions_file.write_text(
        "from pathlib import Path\nimport dagster as dg\n\n@dg.definitions\ndef defs():\n"
        "    ours = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
        "    return dg.Definitions.merge(ours, dg.Definitions(resources={KEY: 7}))\n"
    )
    outputs = {}
    for key in ("theirs", "batchrec_storage"):
        definitions_file.write_text(
            definitions_file.read_text().replace("KEY", repr(key)).replace("'theirs'", repr(key))
        )
        sys.modules.pop(f"{team.package.name}.definitions", None)
        importlib.invalidate_caches()
        outputs[key] = CliRunner().invoke(main, ["check"])
    assert outputs["theirs"].exit_code == 0, outputs["theirs"].output
    assert outputs["batchrec_storage"].exit_code == 1
    conflict = "different resources with same key 'batchrec_storage'"
    assert conflict in outputs["batchrec_storage"].output
