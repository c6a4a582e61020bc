"""What a YAML declares: invalid settings fail at load time, with file, line and fix."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.config.solution import Solution
from batchrec_dagster.steps.batch_jobs import (
    FilterDeclaration,
    build_solution_config,
    build_solution_name,
)
from batchrec_dagster.steps.lists_declaration import describe_lists
from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    declaration,
    definitions,
    module_project,
)
from batchrec_dagster_tests.texts import assert_texts

RATINGS = {"source": "ratings.csv", "columns": COLUMNS}

UPDATABLE = {"recipe": "aws-user-personalization"}

ITEMS = {"source": "items.csv", "columns": {"item": "id", "categories": {"GENRES": "genres"}}}

USERS = {"source": "users.csv", "columns": {"user": "id", "categories": {"COUNTRY": "country"}}}


SHOP_ITEMS = {
    "source": "i.csv",
    "columns": {"item": 1, "categories": {"CATEGORY": 2}, "numbers": {"PRICE": 3}, "created": 4},
}


def declare_rules(**rules: Any) -> dict[str, Any]:
    return {"items": SHOP_ITEMS, "recommendations": {"rules": rules}}


# Attributes, and the line and the setting that the message names.
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"name": "my shop"}, 3, "name"),
    (
        {"op": {"solution_version": {"retries": {"max_retries": 0}}}},
        16,
        "op.solution_version.retries.max_retries",
    ),
    ({"op": {"solution": {"pool": "training"}}}, 14, "op.solution"),
    ({"op": "training"}, 13, "op"),
    ({"colour": "red"}, 13, "colour"),
    (
        {"ratings": {**RATINGS, "sorce": "x"}},
        11,
        "ratings.sorce",
    ),
    ({"ratings": {}}, 4, "ratings.source"),
    ({"ratings": "ratings.csv"}, 4, "ratings"),
    ({"ratings": {"source": "ftp://x/y.csv"}}, 5, "ratings.source"),
    (
        {"ratings": {"source": "a.csv", "query": "SELECT\n a FROM ,"}},
        6,
        "ratings.query",
    ),
    ({"ratings": {"source": {"a": "a.csv"}}}, 5, "ratings.source"),
    (
        {"ratings": {"source": {"a": "ftp://x"}, "query": "SELECT 1"}},
        6,
        "ratings.source.a",
    ),
    ({"ratings": {"source": "sample://x"}}, 5, "ratings.source"),
    ({"ratings": {"source": "ftp://x/*.csv"}}, 5, "ratings.source"),
    (
        {"ratings": {"source": "ratings.csv", "columns": {"user": 1}}},
        6,
        "ratings.columns",
    ),
    (
        {"ratings": {**RATINGS, "timestamp_format": "%H:%M"}},
        11,
        "ratings.timestamp_format",
    ),
    (
        {"ratings": {**RATINGS, "timestamp_format": "%Y%m%d", "timestamp_unit": "s"}},
        4,
        "ratings",
    ),
    ({"interactions": {"filter": "rating >"}}, 12, "interactions.filter"),
    (
        {"interactions": {"filter": "rating > (SELECT 1)"}},
        12,
        "interactions.filter",
    ),
    (
        {"interactions": {"filter": "rating > AVG(rating)"}},
        12,
        "interactions.filter",
    ),
    ({"interactions": {"filter": "1 = 1"}}, 12, "interactions.filter"),
    ({"interactions": {"window": {"days": 0}}}, 13, "interactions.window.days"),
    ({"gate": {"max_drop": 30}}, 14, "gate.max_drop"),
    ({"recommendations": {"max_failed_share": 5}}, 14, "recommendations.max_failed_share"),
    ({"retention": {"editions": 0}}, 14, "retention.editions"),
    ({"retention": {"models": 0}}, 14, "retention.models"),
    (
        {"interactions": {"min_interactions_per_user": 0}},
        12,
        "interactions.min_interactions_per_user",
    ),
    ({"ratings": {**RATINGS, "delimiter": "ab"}}, 11, "ratings.delimiter"),
    ({"ratings": {**RATINGS, "timestamp_unit": "h"}}, 11, "ratings.timestamp_unit"),
    ({"ratings": {**RATINGS, "on_bad_rows": "x"}}, 11, "ratings.on_bad_rows"),
    (
        {"ratings": {**RATINGS, "columns": {"user": "u", "item": 2, "timestamp": 3}}},
        6,
        "ratings.columns",
    ),
    (
        {"ratings": {**RATINGS, "columns": {"user": 1, "item": 1, "timestamp": 3}}},
        6,
        "ratings.columns",
    ),
    (
        {"ratings": {**RATINGS, "columns": {"user": 0, "item": 1, "timestamp": 3}}},
        6,
        "ratings.columns",
    ),
    (
        {"ratings": {**RATINGS, "columns": {"user": 1, "item": 2, "timestamp": 3}}},
        2,
        "attributes",
    ),
    ({"interactions": {"min_rating": float("inf")}}, 12, "interactions.min_rating"),
    (
        {"solution": {"event_weights": {"view": 1.0}}},
        14,
        "solution.event_weights",
    ),
    (
        {"solution": {"success": ["purchase"]}},
        14,
        "solution.success",
    ),
    (
        {"solution": {"event_value_threshold": 0.5}},
        14,
        "solution.event_value_threshold",
    ),
    ({"solution": {"recipe": "aws-x"}}, 14, "solution.recipe"),
    (
        {"solution": {"hyperparameters": {"apply_recency_bias": "perhaps"}}},
        15,
        "solution.hyperparameters.apply_recency_bias",
    ),
    (
        {"solution": {"hyperparameters": {"hidden_dimension": 64}}},
        15,
        "solution.hyperparameters.hidden_dimension",
    ),
    (
        {"solution": {**UPDATABLE, "hyperparameters": {"bptt": 8, "hidden_dimension": 16}}},
        17,
        "solution.hyperparameters.hidden_dimension",
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
    ),
    ({"recommendations": {"num_results": 0}}, 14, "recommendations.num_results"),
    ({"recommendations": {"num_results": "x"}}, 14, "recommendations.num_results"),
    ({"items": {"source": "items.csv"}}, 13, "items.columns"),
    ({"items": {**ITEMS, "source": ["items.csv"]}}, 14, "items.source"),
    ({"recommendations": {"exclude_seen": "perhaps"}}, 14, "recommendations.exclude_seen"),
    ({"items": {**ITEMS, "source": "sample://x"}}, 14, "items.source"),
    ({"items": {**ITEMS, "encoding": "x"}}, 19, "items.encoding"),
    ({"items": {**ITEMS, "encoding": "utf-16"}}, 19, "items.encoding"),
    ({"items": {**ITEMS, "separator": ""}}, 19, "items.separator"),
    (
        {"items": {"source": "items.csv", "columns": {"item": "id", "title": 2}}},
        15,
        "items.columns",
    ),
    ({"items": {"source": "i.csv", "columns": {"item": 1}}}, 15, "items.columns"),
    (
        {"items": {"source": "i.csv", "columns": {"item": 1, "numbers": {"Item_Id": 2}}}},
        15,
        "items.columns",
    ),
    (
        {"items": {"source": "i.csv", "columns": {"item": 1, "numbers": {"RUN TIME": 2}}}},
        15,
        "items.columns",
    ),
    (
        {"recommendations": {"filter": "EXCLUDE ItemID WHERE Items.GENRES IN ($G)"}},
        14,
        "recommendations.filter",
    ),
    (
        {"recommendations": {"filter": 'EXCLUDE ItemID WHERE Items.GENRES IN ("War")'}},
        14,
        "recommendations.filter",
    ),
    (
        {
            "items": ITEMS,
            "recommendations": {"filter": 'EXCLUDE ItemID WHERE Items.YEAR = "War"'},
        },
        20,
        "recommendations.filter",
    ),
    (
        {"recommendations": {"filter": 'EXCLUDE ItemID WERE Items.GENRES IN ("War")'}},
        14,
        "recommendations.filter",
    ),
    (
        {
            "items": ITEMS,
            "recommendations": {"filter": "EXCLUDE ItemID WHERE Items.GENRES < 3"},
        },
        20,
        "recommendations.filter",
    ),
    (
        {
            "items": ITEMS,
            "recommendations": {
                "filter": "EXCLUDE ItemID WHERE Items.GENRES = 3",
            },
        },
        20,
        "recommendations.filter",
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
    ),
    (
        {
            "recommendations": {
                "filter": 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("buy")',
            }
        },
        14,
        "recommendations.filter",
    ),
    (
        {"recommendations": {"filter": "EXCLUDE ItemID WHERE Items.A < 1 IF CurrentUser.B = 1"}},
        14,
        "recommendations.filter",
    ),
    (
        {
            "items": ITEMS,
            "recommendations": {"filter": "INCLUDE ItemID WHERE Items.GENRES = CurrentItem.GENRES"},
        },
        20,
        "recommendations.filter",
    ),
    (
        {"segments": {"items": [1], "filter": "EXCLUDE UserID WHERE Users.AGE < 18"}},
        16,
        "segments.filter",
    ),
    (
        {
            "items": {"source": "i.csv", "columns": {"item": "id", "numbers": {"YEAR": "y"}}},
            "segments": {"attributes": ['ITEMS.YEAR = "new"', 'ITEMS.PLACE = "far"']},
        },
        20,
        "segments.attributes",
    ),
    (
        {"recommendations": {"filter": "EXCLUDE UserID WHERE Users.AGE < 18"}},
        14,
        "recommendations.filter",
    ),
    (
        {"segments": {"items": [1], "filter": 'EXCLUDE itemid WHERE Users.A = "UserID"'}},
        16,
        "segments.filter",
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
    ),
    ({"segments": {}}, 13, "segments"),
    (
        {"segments": {"items": [1], "attributes": ['ITEMS.A = "b"']}},
        13,
        "segments",
    ),
    ({"segments": {"items": [1, "1"]}}, 14, "segments.items"),
    ({"segments": {"items": [*range(501)]}}, 14, "segments.items"),
    (
        {"segments": {"attributes": ['ITEMS.A > "b"']}},
        14,
        "segments.attributes",
    ),
    (
        {"segments": {"attributes": ['ITEMS.A = "b" OR ITEMS.A = "c"']}},
        14,
        "segments.attributes",
    ),
    (
        {"segments": {"attributes": ['ITEMS.A = "b"']}},
        14,
        "segments.attributes",
    ),
    (
        {"segments": {"items": [1], "users_per_segment": 0}},
        16,
        "segments.users_per_segment",
    ),
    (
        {"segments": {"items": [1], "filter": "INCLUDE UserID WHERE Users.AGE = $AGE"}},
        16,
        "segments.filter",
    ),
    ({"recommendations": {"exclude_seen": {"days": 0}}}, 15, "recommendations.exclude_seen.days"),
    (
        {"recommendations": {"exclude_seen": {"events": ["purchase"]}}},
        15,
        "recommendations.exclude_seen.events",
    ),
    (
        {"recommendations": {"exclude_seen": {"except": "ITEMS.STOCK > 0"}}},
        15,
        "recommendations.exclude_seen.except",
    ),
    (declare_rules(exclude_seen=True), 24, "recommendations.rules.exclude_seen"),
    (declare_rules(block={"source": "ftp://x"}), 22, "recommendations"),
    (declare_rules(only="ITEMS.STOCK > 0"), 24, "recommendations.rules.only"),
    (declare_rules(only="ITEMS.PRICE >"), 24, "recommendations.rules.only"),
    (declare_rules(only="ITEMS.PRICE > $P"), 24, "recommendations.rules.only"),
    (declare_rules(only='USERS.COUNTRY = "AT"'), 24, "recommendations.rules.only"),
    (
        declare_rules(only="INCLUDE ItemID WHERE Items.PRICE > 0"),
        24,
        "recommendations.rules.only",
    ),
    (
        {"recommendations": {"rules": {"only": "ITEMS.STOCK > 0"}}},
        15,
        "recommendations.rules.only",
    ),
    (declare_rules(price={"of": "CATEGORY"}), 25, "recommendations.rules.price.of"),
    (
        declare_rules(price={"of": "PRICE", "within": [2, 0.5]}),
        26,
        "recommendations.rules.price.within",
    ),
    (declare_rules(max_per={"PRICE": 3}), 25, "recommendations.rules.max_per.PRICE"),
    (declare_rules(max_per={"CATEGORY": 0}), 24, "recommendations.rules.max_per"),
    (
        declare_rules(pin=[{"only": "ITEMS.AGE < 30"}]),
        24,
        "recommendations.rules.pin.only",
    ),
    (declare_rules(pin=[{"only": "ITEMS.AGE_DAYS < 30", "rank": 26}]), 22, "recommendations"),
    (
        declare_rules(pin=[{"item": 1, "only": "ITEMS.STOCK > 0"}]),
        24,
        "recommendations.rules.pin.0",
    ),
    (declare_rules(pin=[{"rank": 3}]), 24, "recommendations.rules.pin.0"),
    (
        declare_rules(pin=[{"item": 1, "for": 'USERS.COUNTRY = "AT"'}]),
        24,
        "recommendations.rules.pin.for",
    ),
    (declare_rules(pin=[{"item": 1, "rank": 26}]), 22, "recommendations"),
    (declare_rules(pin=[{"item": 1}, {"item": 2}]), 23, "recommendations.rules"),
    (
        declare_rules(pin=[{"item": 1, "until": "2026-02-30"}]),
        24,
        "recommendations.rules.pin.until",
    ),
    ({"users": {"source": "users.csv", "columns": {"user": "id"}}}, 15, "users.columns"),
    ({"users": {"source": "users.csv"}}, 13, "users.columns"),
    ({"users": {**USERS, "source": "ftp://x/users.csv"}}, 14, "users.source"),
    (
        {"users": {**USERS, "columns": {"user": "id", "numbers": {"A B": "a"}}}},
        15,
        "users.columns",
    ),
    (
        {"users": USERS, "recommendations": {"filter": "EXCLUDE ItemID WHERE Users.AGE < 18"}},
        20,
        "recommendations.filter",
    ),
    (
        {
            "users": USERS,
            "items": ITEMS,
            "recommendations": {
                "filter": 'EXCLUDE ItemID WHERE Items.GENRES = "x" IF CurrentUser.COUNTRY > 1'
            },
        },
        26,
        "recommendations.filter",
    ),
    ({"batch_users": {"filter": 'USERS.CONSENT = "yes"'}}, 14, "batch_users.filter"),
    (
        {"users": USERS, "batch_users": {"filter": 'USERS.CONSENT = "yes"'}},
        20,
        "batch_users.filter",
    ),
    (
        {"users": USERS, "batch_users": {"filter": "USERS.COUNTRY = AT"}},
        20,
        "batch_users.filter",
    ),
    (
        {"users": USERS, "batch_users": {"filter": 'INCLUDE UserID WHERE Users.COUNTRY = "AT"'}},
        20,
        "batch_users.filter",
    ),
    (
        {"users": USERS, "batch_users": {"filter": 'ITEMS.GENRES = "x"'}},
        20,
        "batch_users.filter",
    ),
    ({"batch_users": {"query": "SELECT a FROM source"}}, 13, "batch_users"),
    ({"batch_users": {"source": "a.csv", "query": "SELECT\n a FROM ,"}}, 15, "batch_users.query"),
    ({"batch_users": {"source": "sql+env://SHOP_DB"}}, 14, "batch_users.source"),
    ({"schedule": {"cron": "99 * * * *"}}, 14, "schedule.cron"),
    (
        {"schedule": {"cron": "0 3 * * *", "timezone": "Mars"}},
        15,
        "schedule.timezone",
    ),
]


def test_invalid_settings_fail_with_file_line_key_and_fix(tmp_path: Path) -> None:
    texts = []
    for number, (attributes, line, key) in enumerate(REFUSED):
        project = module_project(tmp_path / str(number))
        file = project.declare({**declaration("shop", "ratings.csv"), **attributes})
        with pytest.raises(DeclarationError) as error, definitions(project):
            pass
        (message,) = str(error.value).splitlines()
        assert message.startswith(f"{file}, line {line}: {key}: ")
        texts.append((f"{attributes}"[:200], message.removeprefix(f"{file}, ")))
    assert_texts("settings", texts)


def declare_lists_filter(**recommendations: Any) -> FilterDeclaration | None:
    ratings = {"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}}
    settings = {"name": "shop", "ratings": ratings, "recommendations": recommendations}
    return describe_lists(Pipeline.model_validate(settings)).filter


def test_personalize_leaves_out_of_seen_items_what_its_filters_can_say() -> None:
    everything = declare_lists_filter()
    assert everything is not None
    assert declare_lists_filter(exclude_seen=True) == everything
    assert declare_lists_filter(rules={"max_per": {}}) == everything
    assert declare_lists_filter(exclude_seen=False) is None
    assert declare_lists_filter(exclude_seen={"days": 60}) is None
    bought = declare_lists_filter(exclude_seen={"events": ["buy", "rent"]})
    assert bought is not None
    assert bought.expression == 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("buy","rent")'
    assert bought.ending != everything.ending


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
    assert build_solution_config(solution.training.parameters)["eventsConfig"] == {
        "eventParametersList": [
            {"eventType": "purchase", "weight": 1.0},
            {"eventType": "view", "weight": 0.3},
        ]
    }


def test_success_trains_nothing_else() -> None:
    solution = Solution.model_validate({"success": ["purchase"]})
    assert solution.training == Solution().training
    assert fingerprint(solution) != fingerprint(Solution())


def test_a_threshold_of_event_values_is_personalizes_and_another_solution() -> None:
    recipe, settings = Solution.model_validate({"event_value_threshold": 0.5}).training
    assert build_solution_config(settings)["eventValueThreshold"] == "0.5"
    assert build_solution_name("shop", recipe, settings) != build_solution_name("shop", recipe, {})
    weights = {"event_weights": {"watch": 1}, "event_value_threshold": 0.5}
    event = {"eventType": "watch", "weight": 1.0, "eventValueThreshold": 0.5}
    config = build_solution_config(Solution.model_validate(weights).training.parameters)
    assert config["eventsConfig"] == {"eventParametersList": [event]}
    assert "eventValueThreshold" not in config  # Personalize refuses both


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"event_value_threshold": float("nan")}, "a number"),
        ({"event_weights": {"view": 1.2}}, "write weights from 0 to 1"),
        ({"event_weights": {"view": 0}}, "a weight above 0"),
        ({"event_weights": {f"t{n}": 1 for n in range(11)}}, "at most 10 event types"),
        ({"event_weights": {"view": 1}, **UPDATABLE}, "aws-user-personalization-v2 only"),
        ({"success": [" "]}, "an event type is empty"),
        ({"success": ["buy", "Buy"]}, "named twice"),
        ({"success": [f"t{n}" for n in range(11)]}, "at most 10 event types"),
        (
            {"event_weights": {"view": 1, "buy": 0}, "success": ["View", "buy"]},
            "buy is not trained on",
        ),
    ],
)
def test_events_are_checked(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Solution.model_validate(settings)
