"""A pipeline whose YAML cannot be loaded stops no other: an asset stands in for it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.pipeline.loading import load_valid_pipelines
from batchrec_dagster_tests import support
from batchrec_dagster_tests.support import (
    Project,
    copied_project,
    declaration,
    definitions,
    why,
    write_ratings,
)

BROKEN_FILES = {
    "bad_value": ("attributes: {name: x, ratings: {source: 'ftp://x/y'}}", "https://"),
    "not-yaml": ("attributes: {name: x, ratings: [", "line 3: this is not YAML"),
    "no_env": (
        "attributes: {name: x, ratings: {source: '{{ env.NOT_SET }}'}}",
        "line 2: ratings.source: its template has no value",
    ),
    "group/wrong_type": ("type: Pipeline", "line 1: type: Pipeline does not exist"),
    "group/empty": (None, "the file is empty"),
    "repeated": (
        "attributes:\n  name: x\n  ratings:\n    source: r.csv\n    source: s.csv",
        "line 6: source is set in line 5 too: keep one of them",
    ),
    "repeated_in_line": (
        "attributes: {name: x, ratings: {source: r.csv, source: s.csv}}",
        "line 2: source is set twice: keep one of them",
    ),
    "not_text": ("attributes: {name: x, ratings: {source: caf\xe9}}", "line 2: this is not UTF-8"),
    "control": ("attributes: {name: '\x01'}", "line 2: this is not YAML, because of the control"),
    "deep": (f"attributes: {'[' * 3000}", "line 1: this is nested too deeply"),
    "flat": ("name: x", "line 2: name: there is no such setting; those of a pipeline go under"),
    "no_type": ("attributes: {name: x}  # type: none", "line 1: type: this must be set"),
    "list": ("- type: x", "line 1: attributes: write its settings"),
    "twice_1": ("attributes: {name: twice, ratings: {source: r.csv}}", "twice is also the name"),
    "twice_2": ("attributes: {name: twice, ratings: {source: r.csv}}", "twice is also the name"),
    "sink_1": (
        "attributes: {name: a, ratings: {source: r.csv}, sinks: {dynamodb: {table: lists}}}",
        "a and b write to the same place, sinks.dynamodb.table: lists",
    ),
    "sink_2": (
        "attributes: {name: b, ratings: {source: r.csv}, sinks: {dynamodb: {table: lists}}}",
        "a and b write to the same place, sinks.dynamodb.table: lists",
    ),
}


def declare_broken(project: Project) -> dict[str, Path]:
    """Write BROKEN_FILES; the file of each name."""
    files = {name: project.package / "defs" / name / "defs.yaml" for name in BROKEN_FILES}
    for (text, _), file in zip(BROKEN_FILES.values(), files.values(), strict=True):
        file.parent.mkdir(parents=True)
        head = "" if text is None or "type:" in text else f"type: {COMPONENT_TYPE}\n"
        file.write_bytes(f"{head}{text or '# later'}\n".encode("latin-1"))
    return files


@pytest.mark.slow
def test_an_asset_stands_in_for_each_broken_pipeline(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    files = declare_broken(project)
    monkeypatch.setattr(support, "load_pipelines", load_valid_pipelines)
    with definitions(project) as defs:
        jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
        assert jobs == {"shop_refresh", "shop_rollback", "shop_teardown"}
        for name, (_, reason) in BROKEN_FILES.items():
            key = dg.AssetKey([*name.split("/"), "broken"])
            asset = defs.resolve_assets_def(key)
            (spec,) = asset.specs
            assert f"{files[name]}, line " in (spec.description or "")
            assert reason in (spec.description or "")
        run = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert reason in why(run)
        sensor = defs.resolve_sensor_def("broken_pipelines")
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        with pytest.raises(dg.Failure, match=r"not-yaml/defs.yaml, line 3: this is not YAML"):
            sensor(dg.build_sensor_context(instance))


@pytest.mark.slow
def test_what_is_next_to_a_broken_file_stays_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names_of_sensors(definitions: dg.Definitions) -> list[str]:
        return sorted(sensor.name for sensor in definitions.sensors or [])

    for name in ("shop", "club"):
        project.declare(declaration(name, "ratings.csv", alerts={"slack_webhook_env": "WEBHOOK"}))
    defs = project.package / "defs"
    (defs / "assets.py").write_text(
        "import dagster as dg\n@dg.asset\ndef prices() -> None: ...\n"
        "@dg.asset_check(asset=prices)\ndef cheap() -> dg.AssetCheckResult: ...\n"
    )
    (defs / "group/nested").mkdir(parents=True)
    (defs / "group/resources.py").write_text(
        "import dagster as dg\n@dg.definitions\ndef resources() -> dg.Definitions:\n"
        "    return dg.Definitions(resources={'currency': 'EUR'})\n"
    )
    (defs / "group/nested/stock.py").write_text(
        "import dagster as dg\n@dg.asset\ndef stock() -> None: ...\n"
    )
    (defs / "group/no-definitions").mkdir()
    # The storage that this names is that of pipelines in other folders too.
    (defs / "resources").mkdir()
    (defs / "resources/defs.yaml").write_text(
        "type: batchrec_dagster.BatchrecResources\n"
        f"attributes: {{storage: {project.root}/elsewhere}}\n"
    )
    monkeypatch.setattr(support, "load_pipelines", load_valid_pipelines)
    with definitions(project) as defs_before:
        pass
    (defs / "group/late").mkdir()
    (defs / "group/late/defs.yaml").write_text("type: [")
    with definitions(project) as defs_after:
        pass
    keys = {
        key
        for key in defs_after.resolve_asset_graph().get_all_asset_keys()
        if key.path[-1] != "broken"
    }
    assert keys == {*defs_before.resolve_asset_graph().get_all_asset_keys()}
    assert {dg.AssetKey("prices"), dg.AssetKey("stock")} <= keys
    assert "batchrec_alert_on_failure" in names_of_sensors(defs_before)
    assert names_of_sensors(defs_after) == sorted(
        [*names_of_sensors(defs_before), "broken_pipelines"]
    )
    assert {*(defs_after.resources or {})} == {*(defs_before.resources or {})}
    for resources in (defs_before.resources, defs_after.resources):
        assert resources is not None
        assert resources["currency"] == "EUR"
        assert resources["batchrec_storage"].root == f"{project.root}/elsewhere"
    checks = [key.name for key in defs_after.resolve_asset_graph().asset_check_keys]
    assert "cheap" in checks


@pytest.mark.slow
def test_a_broken_pipeline_fails_validation_and_stops_no_other(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    file = project.declare(declaration("later", "ftp://x/y"))
    file.write_text(f"{file.read_text()}  batch_users: {{active_since: 2026-02-30}}\n")
    module = ("-m", "batchrec_dagster.definitions")
    # Not the script: it would import the package that this copies.
    batchrec = ("python", "-c", "from batchrec_dagster.cli import main; main()")
    for command in (("dagster", "definitions", "validate", *module), (*batchrec, "doctor")):
        check_process = project.run(*command)
        assert check_process.returncode == 1
        assert (
            f"{file}, line 5: ratings.source: ftp://" in check_process.stdout + check_process.stderr
        )
    run_process = project.run("dagster", "job", "execute", *module, "-j", "shop_refresh")
    assert run_process.returncode == 0, run_process.stderr[-3000:]
    assert f"{file}, line 5: ratings.source: ftp://" in run_process.stderr
    for subcommand in ("show", "list"):
        process = project.run(*batchrec, subcommand)
        assert process.returncode == 0
        assert "shop" in process.stdout
        assert f"not refreshed until fixed:\n  {file}, line 5: ratings.source: " in process.stderr
