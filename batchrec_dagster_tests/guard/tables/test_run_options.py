"""Tests of a run's options: in Dagster's Launchpad, by a command, and for a single step."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import Project, declaration, definitions

OPTIONS = {"publish_anyway", "import", "train"}


@pytest.fixture
def job(project: Project) -> dg.JobDefinition:
    """Return the refresh job of a pipeline with items and two lists."""
    items = {"source": "items.csv", "columns": {"item": "id", "title": "title"}}
    lists = {"home": {"num_results": 5}, "mail": {"num_results": 3}}
    project.declare(declaration("shop", "ratings.csv", items=items, lists=lists))
    with definitions(project) as defs:
        return defs.resolve_job_def("shop_refresh")


def test_the_launchpad_opens_with_all_options_off(job: dg.JobDefinition) -> None:
    schema: Any = job.run_config_schema.config_type
    fields = {name: field for name, field in schema.fields.items() if name in OPTIONS}
    assert {name: field.default_value for name, field in fields.items()} == dict.fromkeys(
        OPTIONS, False
    )
    assert all(field.description for field in fields.values())


MODEL_ALONE = {"shop__solution_version": {"config": {"force_train": True}}}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"publish_anyway": True},
        {"import": True, "train": True},
        {"ops": MODEL_ALONE},
        {"ops": MODEL_ALONE, "publish_anyway": True},
    ],
)
def test_options_and_the_config_of_a_step_are_taken(
    job: dg.JobDefinition, config: dict[str, Any]
) -> None:
    dg.validate_run_config(job, config)
    # Options work for a part of the job as well.
    raw = {dg.AssetKey(["shop", "raw_ratings"])}
    options = {name: value for name, value in config.items() if name != "ops"}
    dg.validate_run_config(job.get_subset(asset_selection=raw), options)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"publish_anway": True}, "publish_anway"),
        ({"ops": {"shop__solution_version": {"config": {"force_tran": True}}}}, "force_tran"),
    ],
)
def test_an_unknown_option_is_named(
    job: dg.JobDefinition, config: dict[str, Any], name: str
) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match=name):
        dg.validate_run_config(job, config)
