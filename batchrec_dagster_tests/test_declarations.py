"""What a YAML declares: invalid settings fail at load time, with file, line and fix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from pydantic import ValidationError

from batchrec_dagster import BatchRecommendations
from batchrec_dagster.config import COMPONENT_TYPE, Pipeline
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.pipeline.loading import DeclarationError, load_valid_pipelines
from batchrec_dagster.steps.batch_jobs import solution_config
from batchrec_dagster_tests import support
from batchrec_dagster_tests.support import (
    COLUMNS,
    REPOSITORY,
    Project,
    copied_project,
    declaration,
    definitions,
    module_project,
    why,
    write_ratings,
)

RATINGS = {"source": "ratings.csv", "columns": COLUMNS}

UPDATABLE = {"recipe": "aws-user-personalization"}

ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"GENRES": "genres"}}}


@pytest.mark.parametrize(
    ("attributes", "line", "key", "said"),
    [
        ({"name": "my shop"}, 3, "name", "letters, digits and _"),
        ({"owners": ["me"]}, 13, "owners", "team:NAME"),
        ({"colour": "red"}, 13, "colour", "no such setting"),
        (
            {"ratings": {**RATINGS, "sorce": "x"}},
            11,
            "ratings.sorce",
            "setting; did you mean source?",
        ),
        ({"ratings": {}}, 4, "ratings.source", "required"),
        ({"ratings": "ratings.csv"}, 4, "ratings", "below it"),
        ({"ratings": {"source": "ftp://x/y.csv"}}, 5, "ratings.source", "https://"),
        (
            {"ratings": {"source": "a.csv", "query": "SELECT\n a FROM ,"}},
            6,
            "ratings.query",
            "line 2: Parser Error",
        ),
        ({"ratings": {"source": {"a": "a.csv"}}}, 5, "ratings.source", "need a query"),
        (
            {"ratings": {"source": {"a": "ftp://x"}, "query": "SELECT 1"}},
            6,
            "ratings.source.a",
            "ftp://",
        ),
        ({"ratings": {"source": "sample://x"}}, 5, "ratings.source", "sample://hetrec"),
        ({"ratings": {"source": "movielens://x"}}, 5, "ratings.source", "ml-latest-small"),
        ({"ratings": {"source": "ftp://x/*.csv"}}, 5, "ratings.source", "ftp://"),
        (
            {"ratings": {"source": "ratings.csv", "columns": {"user": 1}}},
            6,
            "ratings.columns",
            "needs the position of item, timestamp",
        ),
        (
            {"ratings": {**RATINGS, "timestamp_format": "%H:%M"}},
            11,
            "ratings.timestamp_format",
            "a format needs day, month and year",
        ),
        (
            {"ratings": {**RATINGS, "timestamp_format": "%Y%m%d", "timestamp_unit": "s"}},
            4,
            "ratings",
            "omit one",
        ),
        ({"ratings": {**RATINGS, "types": {"a": "int"}}}, 12, "ratings.types.a", "'long'"),
        ({"interactions": {"filter": "rating >"}}, 12, "interactions.filter", "one row, such as"),
        (
            {"interactions": {"filter": "rating > (SELECT 1)"}},
            12,
            "interactions.filter",
            "a query within it",
        ),
        (
            {"interactions": {"filter": "rating > AVG(rating)"}},
            12,
            "interactions.filter",
            "an aggregate of all rows",
        ),
        ({"interactions": {"filter": "1 = 1"}}, 12, "interactions.filter", "no column"),
        ({"interactions": {"window": {"days": 0}}}, 13, "interactions.window.days", "from 1"),
        ({"gate": {"max_drop": 30}}, 14, "gate.max_drop", "from 0 to 1"),
        ({"publication": {"history": 0}}, 14, "publication.history", "from 1"),
        ({"publication": {"max_file_gb": 6}}, 14, "publication.max_file_gb", "no such setting"),
        (
            {"interactions": {"min_interactions_per_user": 0}},
            12,
            "interactions.min_interactions_per_user",
            "from 1",
        ),
        ({"ratings": {**RATINGS, "delimiter": "ab"}}, 11, "ratings.delimiter", '"::"'),
        ({"ratings": {**RATINGS, "timestamp_unit": "h"}}, 11, "ratings.timestamp_unit", "'ms'"),
        ({"ratings": {**RATINGS, "on_bad_rows": "x"}}, 11, "ratings.on_bad_rows", "'skip'"),
        (
            {"ratings": {**RATINGS, "columns": {"user": "u", "item": 2, "timestamp": 3}}},
            6,
            "ratings.columns",
            "positions for all",
        ),
        (
            {"ratings": {**RATINGS, "columns": {"user": 1, "item": 1, "timestamp": 3}}},
            6,
            "ratings.columns",
            "different columns",
        ),
        (
            {"ratings": {**RATINGS, "columns": {"user": 0, "item": 1, "timestamp": 3}}},
            6,
            "ratings.columns",
            "from 1",
        ),
        (
            {"ratings": {**RATINGS, "columns": {"user": 1, "item": 2, "timestamp": 3}}},
            2,
            "attributes",
            "needs ratings.columns.rating",
        ),
        ({"interactions": {"min_rating": float("inf")}}, 12, "interactions.min_rating", "a number"),
        (
            {"solution": {"event_weights": {"view": 1.0}}},
            14,
            "solution.event_weights",
            "needs ratings.columns.event_type",
        ),
        ({"solution": {"recipe": "aws-x"}}, 14, "solution.recipe", "aws-user-personalization-v2"),
        (
            {"solution": {"hyperparameters": {"apply_recency_bias": "perhaps"}}},
            15,
            "solution.hyperparameters.apply_recency_bias",
            "is 'perhaps'; allowed: true or false",
        ),
        (
            {"solution": {"hyperparameters": {"hidden_dimension": 64}}},
            15,
            "solution.hyperparameters.hidden_dimension",
            "aws-user-personalization-v2 has no hyperparameter hidden_dimension; it has: apply_re",
        ),
        (
            {"solution": {**UPDATABLE, "hyperparameters": {"bptt": 8, "hidden_dimension": 16}}},
            17,
            "solution.hyperparameters.hidden_dimension",
            "is '16'; allowed: a whole number from 32 to 256",
        ),
        (
            {
                "solution": {
                    **UPDATABLE,
                    "hyperparameters": {
                        "min_user_history_length_percentile": 0.9,
                        "max_user_history_length_percentile": 0.1,
                    },
                }
            },
            15,
            "solution.hyperparameters",
            "min_user_history_length_percentile (0.9)",
        ),
        ({"recommendations": {"num_results": 0}}, 14, "recommendations.num_results", "1 to 500"),
        ({"recommendations": {"num_results": "x"}}, 14, "recommendations.num_results", "integer"),
        ({"items": {"source": "items.csv"}}, 13, "items", "columns is missing"),
        ({"items": {"source": "sample://x"}}, 14, "items.source", "sample://hetrec"),
        ({"items": {**ITEMS, "encoding": "x"}}, 19, "items.encoding", "cp1252, latin-1 or"),
        ({"items": {**ITEMS, "encoding": "utf-16"}}, 19, "items.encoding", "cp1252, latin-1 or"),
        ({"items": {**ITEMS, "separator": ""}}, 19, "items.separator", '"|"'),
        (
            {"items": {"source": "items.csv", "columns": {"item": "id", "title": 2}}},
            15,
            "items.columns",
            "positions for all",
        ),
        ({"items": {"source": "i.csv", "columns": {"item": 1}}}, 15, "items.columns", "categories"),
        (
            {"items": {"source": "i.csv", "columns": {"item": 1, "numbers": {"Item_Id": 2}}}},
            15,
            "items.columns",
            "the same but for underscores",
        ),
        (
            {"items": {"source": "i.csv", "columns": {"item": 1, "numbers": {"RUN TIME": 2}}}},
            15,
            "items.columns",
            "letters, digits and underscores",
        ),
        (
            {"recommendations": {"filter": "EXCLUDE ItemID WHERE Items.GENRES IN ($G)"}},
            13,
            "recommendations",
            "filter_values is missing G",
        ),
        (
            {"recommendations": {"filter_values": {"G": ["War"]}}},
            13,
            "recommendations",
            "the filter has no $G",
        ),
        (
            {"recommendations": {"filter_values": {"G": []}}},
            14,
            "recommendations.filter_values",
            "G has no value",
        ),
        (
            {"recommendations": {"filter": 'EXCLUDE ItemID WHERE Items.GENRES IN ("War")'}},
            14,
            "recommendations.filter",
            "Items.GENRES does not exist: no items are declared",
        ),
        (
            {
                "items": ITEMS,
                "recommendations": {"filter": 'EXCLUDE ItemID WHERE Items.YEAR = "War"'},
            },
            20,
            "recommendations.filter",
            "Items.YEAR does not exist: items.columns declares only ITEM_ID, GENRES",
        ),
        (
            {"recommendations": {"filter": 'EXCLUDE ItemID WERE Items.GENRES IN ("War")'}},
            14,
            "recommendations.filter",
            "unexpected 'WERE' at character 16; expected: WHERE",
        ),
        (
            {
                "items": ITEMS,
                "recommendations": {"filter": "EXCLUDE ItemID WHERE Items.GENRES < 3"},
            },
            20,
            "recommendations.filter",
            "Items.GENRES is of type string: < compares numbers",
        ),
        (
            {
                "items": ITEMS,
                "recommendations": {
                    "filter": "EXCLUDE ItemID WHERE Items.GENRES = $G",
                    "filter_values": {"G": 3},
                },
            },
            20,
            "recommendations.filter",
            "parameter G must be quoted strings",
        ),
        (
            {
                "recommendations": {
                    "filter": 'INCLUDE ItemID WHERE Interactions.EVENT_TYPE = "buy"',
                    "exclude_seen": False,
                }
            },
            14,
            "recommendations.filter",
            "declare ratings.columns.event_type",
        ),
        (
            {
                "recommendations": {
                    "filter": "EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ($E)",
                    "filter_values": {"E": "buy"},
                }
            },
            14,
            "recommendations.filter",
            "EVENT_TYPE is 'rating' for all: declare ratings.columns.event_type",
        ),
        (
            {
                "recommendations": {
                    "filter": "EXCLUDE ItemID WHERE Items.A < 1 IF CurrentUser.B = 1"
                }
            },
            14,
            "recommendations.filter",
            "Items.A does not exist",
        ),
        (
            {
                "items": ITEMS,
                "recommendations": {
                    "filter": "INCLUDE ItemID WHERE Items.GENRES = CurrentItem.GENRES"
                },
            },
            20,
            "recommendations.filter",
            "CurrentItem only works for similar items",
        ),
        (
            {"segments": {"items": [1], "filter": "EXCLUDE UserID WHERE Users.AGE < 18"}},
            16,
            "segments.filter",
            "no users dataset",
        ),
        (
            {
                "items": {"source": "i.csv", "columns": {"item": "id", "numbers": {"YEAR": "y"}}},
                "segments": {"attributes": ['ITEMS.YEAR = "new"', 'ITEMS.PLACE = "far"']},
            },
            20,
            "segments.attributes",
            "the Items schema has no field PLACE",
        ),
        (
            {"recommendations": {"filter": "EXCLUDE UserID WHERE Users.AGE < 18"}},
            14,
            "recommendations.filter",
            "write ItemID",
        ),
        (
            {"segments": {"items": [1], "filter": 'EXCLUDE itemid WHERE Users.A = "UserID"'}},
            16,
            "segments.filter",
            "write UserID",
        ),
        (
            {
                "items": ITEMS,
                "segments": {
                    "attributes": ['ITEMS.GENRES = "War"'],
                    "filter": 'INCLUDE UserID WHERE Interactions.event_type = "buy"',
                },
            },
            19,
            "segments",
            "no filter on interactions",
        ),
        ({"segments": {}}, 13, "segments", "either items"),
        (
            {"segments": {"items": [1], "attributes": ['ITEMS.A = "b"']}},
            13,
            "segments",
            "either items",
        ),
        ({"segments": {"items": [1, "1"]}}, 14, "segments.items", "is repeated"),
        ({"segments": {"items": [*range(501)]}}, 14, "segments.items", "at most 500"),
        (
            {"segments": {"attributes": ['ITEMS.A > "b"']}},
            14,
            "segments.attributes",
            "AND between several",
        ),
        (
            {"segments": {"attributes": ['ITEMS.A = "b" OR ITEMS.A = "c"']}},
            14,
            "segments.attributes",
            "AND between several",
        ),
        (
            {"segments": {"attributes": ['ITEMS.A = "b"']}},
            14,
            "segments.attributes",
            "no items with metadata are declared",
        ),
        (
            {"segments": {"items": [1], "users_per_segment": 0}},
            16,
            "segments.users_per_segment",
            "from 1 to",
        ),
        (
            {"segments": {"items": [1], "filter": "INCLUDE UserID WHERE Users.AGE = $AGE"}},
            16,
            "segments.filter",
            "instead of $PLACEHOLDERS",
        ),
        ({"schedule": {"cron": "99 * * * *"}}, 14, "schedule.cron", "five fields"),
        (
            {"schedule": {"cron": "0 3 * * *", "timezone": "Mars"}},
            15,
            "schedule.timezone",
            "Berlin",
        ),
    ],
)
def test_invalid_settings_fail_with_file_line_key_and_fix(
    tmp_path: Path, attributes: dict[str, Any], line: int, key: str, said: str
) -> None:
    project = module_project(tmp_path)
    file = project.declare({**declaration("shop", "ratings.csv"), **attributes})
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    (message,) = str(error.value).splitlines()
    assert message.startswith(f"{file}, line {line}: {key}: ")
    assert said in message


def test_all_invalid_settings_are_reported_at_once(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(
        declaration("shop", "ratings.csv", schedule={"cron": "x", "timezone": "y", "on": True})
    )
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    keys = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert sorted(keys) == ["schedule.cron", "schedule.on", "schedule.timezone"]


def test_a_name_declared_twice_is_reported_with_both_files(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    first = project.declare(declaration("shop", "ratings.csv"))
    second = first.parent.parent / "shop_copy" / "defs.yaml"
    second.parent.mkdir()
    shutil.copy(first, second)
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    lines = str(error.value).splitlines()
    for line, file, other in zip(lines, (first, second), (second, first), strict=True):
        assert line.startswith(f"{file}, line 3: name: shop ")
        assert str(other) in line


def test_invalid_yaml_is_reported_with_its_line(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    file = project.declare(declaration("shop", "ratings.csv"))
    file.write_text(file.read_text().replace("  name: shop", "  name: shop: x"))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert str(error.value) == (
        f"{file}, line 3: this is not YAML: mapping values are not allowed here"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# later\n", "line 1: the file is empty: declare a pipeline, or delete it"),
        (
            "\ntype: batchrec_dagster.pipeline.BatchRecomendations\nattributes: {}\n",
            "line 2: type: batchrec_dagster.pipeline.BatchRecomendations does not exist;"
            " write batchrec_dagster.BatchRecommendations",
        ),
        (
            "\ntype: batchrec_dagster.pipeline.BatchRecommendations\nattributes: {}\n",
            "line 2: type: batchrec_dagster.pipeline.BatchRecommendations was renamed;"
            " write batchrec_dagster.BatchRecommendations",
        ),
        (
            "type: Pipeline\n",
            "line 1: type: Pipeline does not exist; write batchrec_dagster.BatchRecommendations",
        ),
    ],
)
def test_a_file_that_declares_nothing_is_named(tmp_path: Path, text: str, said: str) -> None:
    project = module_project(tmp_path)
    file = project.declare(declaration("shop", "ratings.csv")).parent.parent / "x" / "defs.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert str(error.value) == f"{file}, {said}"


BROKEN_FILES = {
    "bad_value": ("attributes: {name: x, ratings: {source: 'ftp://x/y'}}", "https://"),
    "not-yaml": ("attributes: {name: x, ratings: [", "line 3: this is not YAML"),
    "no_env": (
        "attributes: {name: x, ratings: {source: '{{ env.NOT_SET }}'}}",
        "line 2: ratings: ",
    ),
    "group/wrong_type": ("type: Pipeline", "line 1: type: Pipeline does not exist"),
    "group/empty": (None, "the file is empty"),
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
        file.write_text(f"{head}{text or '# later'}\n")
    return files


def test_an_asset_stands_in_for_each_broken_pipeline(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.declare(declaration("shop", "ratings.csv"))
    files = declare_broken(project)
    monkeypatch.setattr(support, "load_pipelines", load_valid_pipelines)
    with definitions(project) as defs:
        jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
        assert jobs == {"shop_refresh", "shop_rollback", "shop_teardown"}
        for name, (_, said) in BROKEN_FILES.items():
            key = dg.AssetKey([*name.split("/"), "broken"])
            asset = defs.resolve_assets_def(key)
            (spec,) = asset.specs
            assert f"{files[name]}, line " in (spec.description or "")
            assert said in (spec.description or "")
        run = dg.materialize([asset], instance=instance, raise_on_error=False)
        assert said in why(run)
        sensor = defs.resolve_sensor_def("broken_pipelines")
        assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
        with pytest.raises(dg.Failure, match=r"not-yaml/defs.yaml, line 3: this is not YAML"):
            sensor(dg.build_sensor_context(instance))


@pytest.mark.slow
def test_a_broken_pipeline_fails_validation_and_stops_no_other(tmp_path: Path) -> None:
    project = copied_project(tmp_path)
    write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    file = project.declare(declaration("later", "ftp://x/y"))
    module = ("-m", "batchrec_dagster.definitions")
    # Not the script: it would import the package that this copies.
    batchrec = ("python", "-c", "from batchrec_dagster.cli import main; main()")
    for command in (("dagster", "definitions", "validate", *module), (*batchrec, "doctor")):
        checked = project.run(*command)
        assert checked.returncode == 1
        assert f"{file}, line 5: ratings.source: ftp://x/y" in checked.stdout + checked.stderr
    ran = project.run("dagster", "job", "execute", *module, "-j", "shop_refresh")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert f"{file}, line 5: ratings.source: ftp://x/y" in ran.stderr
    for shown in ("show", "list"):
        said = project.run(*batchrec, shown)
        assert said.returncode == 0
        assert "shop" in said.stdout
        assert f"not refreshed until fixed:\n  {file}, line 5: ratings.source: " in said.stderr


def test_a_template_is_filled_in_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "{{ env.RATINGS }}"))
    monkeypatch.setenv("RATINGS", "gopher://x")
    with (
        pytest.raises(DeclarationError, match=r"line 4: ratings: gopher://x: "),
        definitions(project),
    ):
        pass
    monkeypatch.setenv("RATINGS", "ratings.csv")
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")


def test_templates_stand_in_for_items_filters_and_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items={"source": "{{ env.ITEMS }}"},
            recommendations={"filter": "{{ env.FILTER }}", "filter_values": {"YEAR": 1999}},
            segments={"attributes": ["{{ env.ATTRIBUTES }}"]},
        )
    )
    monkeypatch.setenv("ITEMS", "sample://hetrec/movies.dat")
    monkeypatch.setenv("FILTER", "EXCLUDE ItemID WHERE Items.YEAR < $YEAR")
    monkeypatch.setenv("ATTRIBUTES", 'ITEMS.GENRES = "War"')
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")
    monkeypatch.setenv("ATTRIBUTES", "war films")
    with (
        pytest.raises(
            DeclarationError, match=r"line 19: segments: 'war films' is not an expression"
        ),
        definitions(project),
    ):
        pass


def test_hyperparameters_may_be_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = module_project(tmp_path)
    solution = {**UPDATABLE, "hyperparameters": {"bptt": "{{ env.BPTT }}"}}
    project.declare(declaration("shop", "ratings.csv", solution=solution))
    monkeypatch.setenv("BPTT", "16")
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_refresh")
    monkeypatch.setenv("BPTT", "64")
    with (
        pytest.raises(DeclarationError, match="solution: hyperparameter bptt is '64'; allowed: a"),
        definitions(project),
    ):
        pass


def test_each_hyperparameter_goes_where_personalize_expects_it() -> None:
    solution = Solution.model_validate(
        {**UPDATABLE, "hyperparameters": {"bptt": 4, "max_user_history_length_percentile": 0.9}}
    )
    assert solution_config(solution.algorithm_hyperparameters) == {
        "algorithmHyperParameters": {"bptt": "4"},
        "featureTransformationParameters": {"max_user_history_length_percentile": "0.9"},
    }
    assert solution_config({}) == {"algorithmHyperParameters": {}}


def test_event_weights_are_personalizes_events_config() -> None:
    solution = Solution.model_validate({"event_weights": {"view": 0.3, "purchase": 1}})
    [own, popularity] = solution.recipes.values()
    assert solution_config(own)["eventsConfig"] == {
        "eventParametersList": [
            {"eventType": "purchase", "weight": 1.0},
            {"eventType": "view", "weight": 0.3},
        ]
    }
    assert popularity == {}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"event_weights": {"view": 1.2}}, "write weights from 0 to 1"),
        ({"event_weights": {"view": 0}}, "a weight above 0"),
        ({"event_weights": {f"t{n}": 1 for n in range(11)}}, "at most 10 event types"),
        ({"event_weights": {"view": 1}, **UPDATABLE}, "aws-user-personalization-v2 only"),
    ],
)
def test_event_weights_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Solution.model_validate(settings)


def test_every_setting_has_a_description_for_the_editor() -> None:
    model = BatchRecommendations.get_model_cls()
    assert model is not None
    schema = model.model_json_schema()
    parts = [schema, *schema["$defs"].values()]
    undescribed = [
        f"{part['title']}.{name}"
        for part in parts
        for name, member in part["properties"].items()
        if not member.get("description")
    ]
    assert len(parts) >= 17
    assert undescribed == []


def test_the_schedule_runs_the_refresh_job_as_declared(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    schedule = {"cron": "30 4 * * 1", "timezone": "Europe/Berlin", "enabled": True}
    project.declare(declaration("shop", "ratings.csv", schedule=schedule))
    with definitions(project) as defs:
        declared = defs.resolve_schedule_def("shop_schedule")
    assert declared.job_name == "shop_refresh"
    assert declared.cron_schedule == "30 4 * * 1"
    assert declared.execution_timezone == "Europe/Berlin"
    assert declared.default_status is dg.DefaultScheduleStatus.RUNNING


def test_assets_say_what_they_are(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv", owners=["ann@example.com"]))
    with definitions(project) as defs:
        specs = defs.resolve_all_asset_specs()
    names = {spec.key.to_user_string() for spec in specs}
    assert names == {
        f"shop/{name}"
        for name in (
            "raw_ratings",
            "interactions",
            "batch_users",
            "personalize_dataset",
            "solution_version",
            "recommendations",
            "recommendation_outcomes",
            "recommendation_report",
        )
    }
    for spec in specs:
        assert spec.description
        assert spec.kinds
        assert spec.owners == ["ann@example.com"]
        assert spec.group_name == "shop"
        assert spec.code_version


def test_the_pipeline_that_the_readme_shows_loads(tmp_path: Path) -> None:
    text = (
        (REPOSITORY / "README.md").read_text().partition("```yaml\ntype: ")[2].partition("```")[0]
    )
    project = module_project(tmp_path)
    project.declare(yaml.safe_load(f"type: {text}")["attributes"])
    with definitions(project) as defs:
        assert "recommendations_in_postgres" in {
            key.path[-1] for key in defs.resolve_all_asset_keys()
        }


def test_assets_are_there_for_what_is_declared(tmp_path: Path) -> None:
    def assets(**attributes: Any) -> dict[str, set[str]]:
        project.declare(declaration("shop", "ratings.csv", **attributes))
        with definitions(project) as defs:
            specs = defs.resolve_all_asset_specs()
        return {spec.key.path[-1]: {dep.asset_key.path[-1] for dep in spec.deps} for spec in specs}

    project = module_project(tmp_path)
    plain = assets()
    segments = assets(segments={"items": [1]})
    assert set(segments) - set(plain) == {"segment_solution_version", "user_segments"}
    assert segments["user_segments"] == {"segment_solution_version"}
    told = assets(items={"source": "sample://hetrec/movies.dat"}, segments={"items": [1]})
    assert set(told) - set(segments) == {"raw_items", "items", "item_titles"}
    assert told["personalize_dataset"] == {"interactions", "items"}
    assert told["recommendations"] - plain["recommendations"] == {"item_titles"}
    assert told["user_segments"] == {"segment_solution_version", "item_titles"}
    titles = assets(items={"source": "movielens://ml-100k/u.item"})
    assert set(titles) - set(plain) == {"raw_items", "item_titles"}
    metadata_only = assets(items=ITEMS)
    assert set(metadata_only) - set(plain) == {"raw_items", "items"}


def test_the_code_version_changes_with_the_settings_an_asset_reads() -> None:
    def versions(**attributes: Any) -> dict[str, str | None]:
        from batchrec_dagster.pipeline.assets.batch_users import batch_users
        from batchrec_dagster.pipeline.assets.interactions import interactions
        from batchrec_dagster.pipeline.assets.solution_version import solution_version

        pipeline = Pipeline.model_validate({**declaration("shop", "ratings.csv"), **attributes})
        assets = [batch_users(pipeline), interactions(pipeline), solution_version(pipeline)]
        return {
            asset.key.path[-1]: next(iter(asset.code_versions_by_key.values())) for asset in assets
        }

    before = versions()
    stricter = versions(interactions={"min_rating": 4})
    assert stricter["interactions"] != before["interactions"]
    assert stricter["solution_version"] == before["solution_version"]
    items = versions(items=ITEMS)
    genre = {"filter": "EXCLUDE ItemID WHERE Items.GENRES = $G", "filter_values": {"G": "War"}}
    filtered = versions(items=ITEMS, recommendations=genre)
    assert filtered["batch_users"] != items["batch_users"]
    assert filtered["interactions"] == items["interactions"]
    other = versions(solution={"recipe": "aws-popularity-count"})
    assert other["interactions"] == before["interactions"]
    assert other["solution_version"] != before["solution_version"]
    assert versions(schedule={"cron": "@daily"}) == before
