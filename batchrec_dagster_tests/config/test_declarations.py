"""What a YAML declares: invalid settings fail at load time, with file, line and fix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.steps.batch_jobs import build_solution_config, build_solution_name
from batchrec_dagster_tests.support import (
    COLUMNS,
    declaration,
    definitions,
    module_project,
)

RATINGS = {"source": "ratings.csv", "columns": COLUMNS}

UPDATABLE = {"recipe": "aws-user-personalization"}

ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"GENRES": "genres"}}}


@pytest.mark.parametrize(
    ("attributes", "line", "key", "reason"),
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
        (
            {"solution": {"event_value_threshold": 0.5}},
            14,
            "solution.event_value_threshold",
            "needs ratings.columns.event_value",
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
            "joined by AND",
        ),
        (
            {"segments": {"attributes": ['ITEMS.A = "b" OR ITEMS.A = "c"']}},
            14,
            "segments.attributes",
            "joined by AND",
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
    tmp_path: Path, attributes: dict[str, Any], line: int, key: str, reason: str
) -> None:
    project = module_project(tmp_path)
    file = project.declare({**declaration("shop", "ratings.csv"), **attributes})
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    (message,) = str(error.value).splitlines()
    assert message.startswith(f"{file}, line {line}: {key}: ")
    assert reason in message


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
    ("text", "message"),
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
def test_a_file_that_declares_nothing_is_named(tmp_path: Path, text: str, message: str) -> None:
    project = module_project(tmp_path)
    file = project.declare(declaration("shop", "ratings.csv")).parent.parent / "x" / "defs.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert str(error.value) == f"{file}, {message}"


def test_event_weights_are_personalizes_events_config() -> None:
    solution = Solution.model_validate({"event_weights": {"view": 0.3, "purchase": 1}})
    [own, popularity] = solution.recipes.values()
    assert build_solution_config(own)["eventsConfig"] == {
        "eventParametersList": [
            {"eventType": "purchase", "weight": 1.0},
            {"eventType": "view", "weight": 0.3},
        ]
    }
    assert popularity == {}


def test_a_threshold_of_event_values_is_personalizes_and_another_solution() -> None:
    recipes_by_threshold = Solution.model_validate({"event_value_threshold": 0.5}).recipes
    assert len(recipes_by_threshold) == 2
    for recipe, settings in recipes_by_threshold.items():
        assert build_solution_config(settings)["eventValueThreshold"] == "0.5"
        assert build_solution_name("shop", recipe, settings) != build_solution_name(
            "shop", recipe, {}
        )
    weights = {"event_weights": {"watch": 1}, "event_value_threshold": 0.5}
    [own, popularity] = Solution.model_validate(weights).recipes.values()
    event = {"eventType": "watch", "weight": 1.0, "eventValueThreshold": 0.5}
    config = build_solution_config(own)
    assert config["eventsConfig"] == {"eventParametersList": [event]}
    assert "eventValueThreshold" not in config  # Personalize refuses both
    assert build_solution_config(popularity)["eventValueThreshold"] == "0.5"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"event_value_threshold": float("nan")}, "a number"),
        ({"event_weights": {"view": 1.2}}, "write weights from 0 to 1"),
        ({"event_weights": {"view": 0}}, "a weight above 0"),
        ({"event_weights": {f"t{n}": 1 for n in range(11)}}, "at most 10 event types"),
        ({"event_weights": {"view": 1}, **UPDATABLE}, "aws-user-personalization-v2 only"),
    ],
)
def test_event_weights_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Solution.model_validate(settings)
