"""Tests of a pipeline's definitions in a Dagster project, for each way to declare it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import jsonschema
import pytest
from click.testing import CliRunner
from dagster.components.component_scaffolding import scaffold_object

import batchrec_dagster
from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import ASSETS, Project, declaration, definitions
from batchrec_dagster_tests.guard.seams.declaration import find_refusals
from batchrec_dagster_tests.guard.servers.inbox import ON_FAILURE, ON_LISTS, Inbox, tick

TYPE = "batchrec_dagster.BatchRecommendations"
# A pipeline NAME with alerts, declared in Python.
MAKE = """\
import dagster as dg
from batchrec_dagster import BatchRecommendations

def make(name, cls=BatchRecommendations, **settings):
    ratings = {"source": "ratings.csv", "columns": {"user": "u", "item": "i", "timestamp": "t"}}
    alerts = {"urls_env": "SHOP_ALERTS"}
    return cls.model_validate({"name": name, "ratings": ratings, "alerts": alerts, **settings})
"""
# Each way to declare gives the pipelines `one` and `two`.
INSTANCES = f"""{MAKE}
@dg.component_instance
def first(context: dg.ComponentLoadContext) -> BatchRecommendations:
    return make("one")

@dg.component_instance
def second(context):
    return make("two")
"""
WRAPPER = f"""{MAKE}
class Shops(dg.Component, dg.Model, dg.Resolvable):
    names: list[str]

    def build_defs(self, context):
        return dg.Definitions.merge(*[make(name).build_defs(context) for name in self.names])
"""
SUBCLASS = f"""{MAKE}
class Sub(BatchRecommendations):
    def build_defs(self, context):
        theirs = dg.Definitions(assets=[dg.AssetSpec([self.name, "mails"])])
        return dg.Definitions.merge(super().build_defs(context), theirs)

@dg.component_instance
def first(context) -> Sub:
    return make("one", Sub)

@dg.component_instance
def second(context) -> dg.Component:
    return make("two", Sub)
"""


def declare_in_yaml(project: Project) -> None:
    for name in ("one", "two"):
        project.declare(declaration(name, "ratings.csv", alerts={"urls_env": "SHOP_ALERTS"}))


def declare_instances(project: Project) -> None:
    (project.package / "defs" / "made.py").write_text(INSTANCES)


def declare_by_wrapper(project: Project, names: str = "[one, two]") -> None:
    (project.package / "shops.py").write_text(WRAPPER)
    folder = project.package / "defs" / "shops"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        f"type: {project.package.name}.shops.Shops\nattributes: {{names: {names}}}\n"
    )


def declare_by_subclass(project: Project) -> None:
    (project.package / "defs" / "made.py").write_text(SUBCLASS)


WAYS = [declare_in_yaml, declare_instances, declare_by_wrapper, declare_by_subclass]


def list_jobs(defs: dg.Definitions) -> set[str]:
    return {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}


@pytest.mark.parametrize("declare", WAYS)
class TestEachWayToDeclare:
    """Tests of two pipelines in a project, for each way to declare them."""

    @pytest.fixture(autouse=True)
    def in_the_project(
        self, project: Project, monkeypatch: pytest.MonkeyPatch, declare: Any
    ) -> None:
        monkeypatch.chdir(project.root)
        monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        declare(project)

    def test_their_jobs_are_there_and_their_failures_alert(
        self, project: Project, instance: dg.DagsterInstance, inbox: Inbox
    ) -> None:
        # The other pipeline has no alerts.
        project.declare(declaration("quiet", "missing.csv"))
        with definitions(project) as defs:
            jobs = {f"{name}_{kind}" for name in ("one", "two") for kind in ("refresh", "rollback")}
            assert jobs <= list_jobs(defs)
            sensors = [sensor.name for sensor in defs.get_repository_def().sensor_defs]
            assert sorted(name for name in sensors if "alert" in name) == [ON_FAILURE, ON_LISTS]
            cursor = tick(defs, ON_FAILURE, instance, None).cursor
            for name in ("one", "two", "quiet"):
                defs.resolve_job_def(f"{name}_refresh").execute_in_process(
                    instance=instance,
                    asset_selection=[dg.AssetKey([name, "raw_ratings"])],
                    raise_on_error=False,
                )
            tick(defs, ON_FAILURE, instance, cursor)
        titles = [text.splitlines()[0] for text in inbox.texts]
        assert ["one_refresh" in titles[0], "two_refresh" in titles[1]] == [True, True]
        assert len(titles) == 2

    def test_check_opens_their_sources(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHOP_ALERTS", "json://hooks.example.com/x")
        result = CliRunner().invoke(main, ["check"])
        assert result.exit_code == 1
        for name in ("one", "two"):
            assert re.search(rf"FAILED +{name} ratings +ratings\.csv", result.output)

    def test_commands_know_them_by_their_names(self) -> None:
        result = CliRunner().invoke(main, ["list", "--json"])
        assert result.exit_code == 0, result.output
        assert [pipeline["pipeline"] for pipeline in json.loads(result.stdout)] == ["one", "two"]
        result = CliRunner().invoke(main, ["run", "three"])
        assert result.exit_code == 3
        assert "one, two" in result.output

    def test_a_name_that_another_pipeline_has_is_refused(self, project: Project) -> None:
        file = project.package / "defs" / "again" / "defs.yaml"
        file.parent.mkdir()
        source = "source: ratings.csv"
        file.write_text(f"type: {TYPE}\nattributes:\n  name: two\n  ratings: {{{source}}}\n")
        refusals = find_refusals(project)
        (refusal,) = (refusal for refusal in refusals if refusal.file == file)
        assert (refusal.line, refusal.setting) == (3, "name")
        assert "two" in refusal.message


@pytest.mark.parametrize("name", ["defs.yml", "component.yaml"])
def test_commands_know_the_pipelines_of_each_file_that_dagster_loads(
    project: Project, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(project.root)
    file = project.declare(declaration("shop", "ratings.csv"))
    file.rename(file.with_name(name))
    result = CliRunner().invoke(main, ["list", "--json"])
    assert result.exit_code == 0, result.output
    assert [pipeline["pipeline"] for pipeline in json.loads(result.stdout)] == ["shop"]


def test_a_misspelt_setting_is_named_by_the_schema_that_dg_checks() -> None:
    cls = batchrec_dagster.BatchRecommendations.get_model_cls()
    validator = jsonschema.Draft7Validator(cls.model_json_schema())
    items = {"source": "i.csv", "columns": {"item": "id", "titel": "name"}}
    attributes = declaration("shop", "ratings.csv", items=items, gate={"max_dorp": 1})
    messages = [error.message for error in validator.iter_errors(attributes)]
    assert len(messages) == 2
    assert "'titel' was unexpected" in messages[0] + messages[1]
    assert "'max_dorp' was unexpected" in messages[0] + messages[1]


def test_a_wrapper_makes_thirty_pipelines(project: Project) -> None:
    names = [f"shop_{number}" for number in range(30)]
    declare_by_wrapper(project, f"[{', '.join(names)}]")
    with definitions(project) as defs:
        assert {f"{name}_refresh" for name in names} <= list_jobs(defs)
        sensors = [sensor.name for sensor in defs.get_repository_def().sensor_defs]
    assert sorted(name for name in sensors if "alert" in name) == [ON_FAILURE, ON_LISTS]


def test_a_wrapper_that_makes_a_name_twice_is_refused(project: Project) -> None:
    declare_by_wrapper(project, "[one, one]")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="one"), definitions(project) as defs:
        defs.get_repository_def()


def test_sinks_of_pipelines_of_python_need_places_of_their_own(project: Project) -> None:
    sinks = 'sinks={"dynamodb": {"table": "lists"}}'
    text = INSTANCES.replace('make("one")', f'make("one", {sinks})')
    text = text.replace('make("two")', f'make("two", {sinks})')
    (project.package / "defs" / "made.py").write_text(text)
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="one and two"), definitions(project):
        pass


# Its definitions


def test_each_asset_says_what_it_is(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        specs = defs.resolve_all_asset_specs()
    assert {spec.key.to_user_string() for spec in specs} == {f"shop/{name}" for name in ASSETS}
    for spec in specs:
        assert spec.description
        assert spec.kinds
        assert spec.group_name == "shop"


@pytest.mark.parametrize(
    ("settings", "assets"),
    [
        ({"segments": {"items": [1]}}, {"user_segments"}),
        ({"items": {"source": "i.csv", "columns": {"item": "id", "title": "t"}}}, {"raw_items"}),
        (
            {"users": {"source": "u.csv", "columns": {"user": "id", "categories": {"A": "a"}}}},
            {"raw_users"},
        ),
        ({"similar_items": {"num_results": 5}}, {"similar_items"}),
        ({"sinks": {"export": {"format": "csv"}}}, {"recommendations"}),
    ],
)
def test_declared_blocks_bring_their_assets(
    project: Project, settings: dict[str, Any], assets: set[str]
) -> None:
    def list_assets(**attributes: Any) -> dict[str, set[str]]:
        project.declare(declaration("shop", "ratings.csv", **attributes))
        with definitions(project) as defs:
            specs = [*defs.resolve_all_asset_specs()]
        names = {spec.key.to_user_string() for spec in specs}
        # The assets depend only on assets of the pipeline.
        for spec in specs:
            assert {dep.asset_key.to_user_string() for dep in spec.deps} <= names
        return {name.rpartition("/")[2]: set() for name in names}

    plain = list_assets()
    declared = list_assets(**settings)
    assert assets <= set(declared)
    assert set(plain) <= set(declared)
    if assets != {"recommendations"}:
        assert not assets & set(plain)


def test_settings_change_the_code_versions_of_their_assets_alone(project: Project) -> None:
    def read_versions(**attributes: Any) -> dict[str, str | None]:
        project.declare(declaration("shop", "ratings.csv", **attributes))
        with definitions(project) as defs:
            specs = defs.resolve_all_asset_specs()
        return {spec.key.path[-1]: spec.code_version for spec in specs}

    def list_changed(**attributes: Any) -> set[str]:
        versions = read_versions(**attributes)
        return {name for name in plain if plain[name] != versions[name]}

    plain = read_versions()
    assert None not in plain.values()
    assert "interactions" in list_changed(interactions={"min_rating": 4})
    assert "solution_version" not in list_changed(interactions={"min_rating": 4})
    assert "solution_version" in list_changed(solution={"recipe": "aws-user-personalization"})
    assert "interactions" not in list_changed(solution={"recipe": "aws-user-personalization"})
    assert "recommendations" in list_changed(recommendations={"num_results": 5})
    assert list_changed(schedule={"cron": "@daily"}) == set()


def test_the_schedule_runs_the_refresh_as_declared(project: Project) -> None:
    settings = {"cron": "30 4 * * 1", "timezone": "Europe/Berlin", "enabled": True}
    project.declare(declaration("shop", "ratings.csv", schedule=settings))
    project.declare(declaration("club", "ratings.csv", schedule={"cron": "0 3 * * *"}))
    with definitions(project) as defs:
        shop = defs.resolve_schedule_def("shop_schedule")
        club = defs.resolve_schedule_def("club_schedule")
    assert (shop.job_name, shop.cron_schedule) == ("shop_refresh", "30 4 * * 1")
    assert shop.execution_timezone == "Europe/Berlin"
    assert shop.default_status is dg.DefaultScheduleStatus.RUNNING
    # No automation starts without being enabled.
    assert club.default_status is dg.DefaultScheduleStatus.STOPPED


def test_a_run_that_hangs_is_ended_by_dagster_after_two_days(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    with definitions(project) as defs:
        for job in ("shop_refresh", "shop_rollback"):
            assert defs.resolve_job_def(job).tags["dagster/max_runtime"] == "172800"


def test_a_component_scaffolded_by_dg_loads(project: Project) -> None:
    folder = project.package / "defs" / "shop"
    gitignore = project.root / ".gitignore"
    gitignore.write_text("*.pyc")
    scaffold_object(folder, TYPE, None, "yaml", project.root)
    parameters = json.dumps({"ratings": "club.csv"})
    clubs = project.package / "defs" / "2 clubs"
    scaffold_object(clubs, TYPE, parameters, "yaml", project.root)
    assert "source: club.csv" in (clubs / "defs.yaml").read_text()
    # only once, even with other definitions
    assert gitignore.read_text() == "*.pyc\n.batchrec/\n"
    in_python = project.package / "defs" / "code"
    scaffold_object(in_python, TYPE, json.dumps({"ratings": 'a "b".csv'}), "python", project.root)
    assert [path.name for path in in_python.iterdir()] == ["component.py"]
    with definitions(project) as defs:
        assert {"shop_refresh", "p2_clubs_refresh", "code_refresh"} <= list_jobs(defs)


def test_another_code_location_names_a_list_by_its_address(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv", lists={"home": {}, "mail": {}}))
    project.declare(declaration("club", "ratings.csv"))
    with definitions(project) as defs:
        keys = set(defs.resolve_all_asset_keys())
    addresses = ("shop/home", "shop/mail", "club")
    specs = [batchrec_dagster.published(address) for address in addresses]
    assert {spec.key for spec in specs} <= keys
    assert len({spec.key for spec in specs}) == 3


def test_loading_imports_nothing_that_only_steps_use(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    heavy = {"implicit", "pyspark", "scipy", "pandas", "pyarrow", "starlette", "uvicorn"}
    code = (
        "import sys; from batchrec_dagster import BatchRecommendations, definitions;"
        "definitions.defs(); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    process = project.run(Path(sys.executable).name, "-W", "ignore", "-c", code)
    assert process.returncode == 0, process.stderr
    assert heavy & set(process.stdout.split()) == set()
