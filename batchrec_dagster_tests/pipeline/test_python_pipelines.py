"""Pipelines that a team's Python makes: they load, alert and have names of their own as in YAML."""

from __future__ import annotations

import logging

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.declared_pipelines import find_lists, find_pipelines
from batchrec_dagster.cli.forget import load_works
from batchrec_dagster.cli.project import find_project
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions
from batchrec_dagster_tests.pipeline.alerts_support import ON_FAILURE, ON_LISTS, Inbox, inbox, tick

__all__ = ["inbox"]

# A pipeline NAME with alerts, as Python makes it.
MAKE = """\
import dagster as dg
from batchrec_dagster import BatchRecommendations

def make(name, cls=BatchRecommendations, **settings):
    ratings = {"source": "ratings.csv", "columns": {"user": "u", "item": "i", "timestamp": "t"}}
    alerts = {"urls_env": "SHOP_ALERTS"}
    return cls(name=name, ratings=ratings, alerts=alerts, **settings)
"""
# Each way gives the pipelines `one` and `two`.
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
WAYS = {"instances": INSTANCES, "wrapper": WRAPPER, "subclass": SUBCLASS}


def write(project: Project, way: str, names: str = "[one, two]") -> None:
    """The files that make the pipelines in this way."""
    if way != "wrapper":
        (project.package / "defs" / "made.py").write_text(WAYS[way])
        return
    (project.package / "shops.py").write_text(WRAPPER)
    folder = project.package / "defs" / "shops"
    folder.mkdir()
    (folder / "defs.yaml").write_text(
        f"type: {project.package.name}.shops.Shops\nattributes: {{names: {names}}}\n"
    )


@pytest.mark.parametrize("way", WAYS)
def test_check_opens_their_sources_too(
    project: Project, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.setenv("SHOP_ALERTS", "json://hooks.example.com/x")
    write(project, way)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 1
    for name in ("one", "two"):
        assert (
            f"FAILED   {name} ratings            ratings.csv: there is no such file"
            in result.output
        )


def list_jobs(defs: dg.Definitions) -> set[str]:
    return {job.name for job in defs.resolve_all_job_defs() if job.name.endswith("_refresh")}


@pytest.mark.parametrize("way", WAYS)
def test_all_pipelines_of_python_load_and_alert(
    project: Project, instance: dg.DagsterInstance, inbox: Inbox, way: str
) -> None:
    write(project, way)
    # Another one, declared in YAML, has no alerts.
    project.declare(declaration("quiet", "missing.csv"))
    with definitions(project) as defs:
        assert list_jobs(defs) == {"one_refresh", "two_refresh", "quiet_refresh"}
        sensors = [sensor.name for sensor in defs.get_repository_def().sensor_defs]
        assert {ON_FAILURE, ON_LISTS} <= set(sensors)
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        for name in ("one", "two", "quiet"):
            defs.resolve_job_def(f"{name}_refresh").execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey([name, "raw_ratings"])],
                raise_on_error=False,
            )
        tick(defs, ON_FAILURE, instance, cursor)
    titles = [text.splitlines()[0] for text in inbox.texts]
    assert titles == ["batchrec: one_refresh failed", "batchrec: two_refresh failed"]


def test_a_template_makes_thirty_pipelines(project: Project) -> None:
    names = [f"shop_{number}" for number in range(30)]
    write(project, "wrapper", f"[{', '.join(names)}]")
    with definitions(project) as defs:
        assert list_jobs(defs) == {f"{name}_refresh" for name in names}
        sensors = [sensor.name for sensor in defs.get_repository_def().sensor_defs]
    assert sorted(name for name in sensors if "alert" in name) == [ON_FAILURE, ON_LISTS]


@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_another_pipeline_has_is_refused(project: Project, way: str) -> None:
    write(project, way)
    project.declare(declaration("two", "ratings.csv"))
    with (
        pytest.raises(DeclarationError, match="two is also the name of the pipeline in") as error,
        definitions(project),
    ):
        pass
    # It names both places.
    place = "defs/shops" if way == "wrapper" else "defs/made.py"
    assert place in str(error.value)
    assert "defs/two/defs.yaml" in str(error.value)


def test_a_template_that_makes_a_name_twice_is_refused(project: Project) -> None:
    write(project, "wrapper", "[one, one]")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="one"), definitions(project) as defs:
        defs.get_repository_def()


def test_people_are_erased_from_pipelines_of_python(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(project, "instances")
    project.declare(declaration("three", "ratings.csv"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    works, assets = load_works([], logging.getLogger())
    assert [work.pipeline.name for work in works] == ["one", "three", "two"]
    assert dg.AssetKey(["one", "recommendations"]) in assets["one"]
    assert {work.storage.root for work in works} == {str(project.storage)}


@pytest.mark.parametrize("way", WAYS)
def test_commands_know_pipelines_of_python(
    project: Project, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    write(project, way)
    project.declare(declaration("three", "ratings.csv"))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    pipelines = find_pipelines(find_project())
    assert sorted(pipelines) == sorted(find_lists(find_project())) == ["one", "three", "two"]
    assert pipelines["one"].is_relative_to(project.package)
    # One that does not load is none of the others' problem.
    (project.package / "defs" / "three" / "defs.yaml").write_text("type: [")
    assert find_pipelines(find_project()) == {}


def test_sinks_of_pipelines_of_python_have_places_of_their_own(project: Project) -> None:
    sinks = 'sinks={"dynamodb": {"table": "lists"}}'
    text = INSTANCES.replace('make("one")', f'make("one", {sinks})')
    text = text.replace('make("two")', f'make("two", {sinks})')
    (project.package / "defs" / "made.py").write_text(text)
    with (
        pytest.raises(DeclarationError, match="one and two write to the same place"),
        definitions(project),
    ):
        pass
