"""The tables of what is supported: the documentation has them, and the service obeys them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster.local_personalize.api.validation import load_service_model
from batchrec_dagster.local_personalize.catalog.quotas import Quotas
from batchrec_dagster.local_personalize.operations import support_table
from batchrec_dagster.local_personalize.operations.registry import OPERATIONS
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster_tests.local_personalize.support import RECIPE, ROLE, Local, build_taste_rows

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "local-personalize-support.md"
BETWEEN = r"<!-- made by: batchrec local-personalize --support -->\n(.*?)<!-- end -->"
EXISTS, MISSING, IN_USE, LIMIT, INVALID, TAGS = (
    f"{name}Exception"
    for name in (
        "ResourceAlreadyExists",
        "ResourceNotFound",
        "ResourceInUse",
        "LimitExceeded",
        "InvalidInput",
        "TooManyTags",
    )
)


def test_the_documentation_has_the_tables_that_the_code_makes() -> None:
    command = [sys.executable, "-m", "batchrec_dagster.local_personalize", "--support"]
    printed_tables = subprocess.check_output(command, text=True, encoding="utf-8")
    (documented_tables,) = re.findall(BETWEEN, PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert documented_tables == printed_tables, (
        "put what `batchrec local-personalize --support` prints into the page"
    )


def test_every_operation_and_recipe_is_listed_once() -> None:
    operations = {row.name: row for row in support_table.describe_operations()}
    assert len(operations) == 71
    assert set(operations) == set(load_service_model().operation_names)
    assert {name for name, row in operations.items() if row.supported} == set(OPERATIONS)
    assert all(row.note for row in operations.values() if not row.supported)
    recipes = list(support_table.describe_recipes())
    assert len({row.name for row in recipes}) == len(recipes)
    assert {row.name for row in recipes if row.supported} == {r.name for r in RECIPES.values()}


@pytest.mark.parametrize(
    "name", [row.name for row in support_table.describe_recipes() if "…" not in row.name]
)
def test_the_service_accepts_exactly_the_supported_recipes(local: Local, name: str) -> None:
    (row,) = (row for row in support_table.describe_recipes() if row.name == name)
    group = local.create_group()
    refusal = _find_refusal(
        local,
        "create_solution",
        name="films",
        datasetGroupArn=group,
        recipeArn=RECIPE + name,
    )
    assert refusal in ((None,) if row.supported else (MISSING, INVALID))


def _find_refusal(local: Local, operation: str, **params: Any) -> str | None:
    """The exception's name, or None when the request is answered."""
    try:
        getattr(local.client, operation)(**params)
    except local.client.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def _group(local: Local, **params: Any) -> str | None:
    return _find_refusal(local, "create_dataset_group", **{"name": "another", **params})


def _break_a_constraint(local: Local) -> str | None:
    return _group(local, name="no spaces")


def _create_two_datasets_of_a_type(local: Local) -> str | None:
    group, _ = local.import_rows(build_taste_rows())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _find_refusal(
        local,
        "create_dataset",
        name="second",
        datasetGroupArn=group,
        schemaArn=schema,
        datasetType="Interactions",
    )


def _create_schema(local: Local, **params: Any) -> str | None:
    schema = {"schema": build_interactions_schema(event_type=False), **params}
    return _find_refusal(local, "create_schema", name="s", **schema)


def _create_wrong_schema(local: Local) -> str | None:
    schema = json.loads(build_interactions_schema(event_type=False))
    del schema["fields"][0]
    return _create_schema(local, schema=json.dumps(schema))


def _delete_schema_in_use(local: Local) -> str | None:
    local.create_dataset(local.create_group())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _find_refusal(local, "delete_schema", schemaArn=schema)


def _create_one_group_too_many(local: Local) -> str | None:
    assert Quotas().dataset_groups == 50
    local.quotas = Quotas(dataset_groups=1)
    local.client = local.open_client()
    assert _group(local) is None
    return _group(local, name="one-more")


def _create_domain_group(local: Local) -> str | None:
    assert _group(local, domain="ECOMMERCE") is None
    return _create_schema(local, domain="ECOMMERCE")  # lacks EVENT_TYPE


def _tag_too_often(local: Local) -> str | None:
    arn = local.create_group()
    tags = [{"tagKey": f"k{n}", "tagValue": ""} for n in range(51)]
    for tag_list in (tags[:50], tags[50:]):
        refusal = _find_refusal(local, "tag_resource", resourceArn=arn, tags=tag_list)
    return refusal


def _name_again(local: Local) -> str | None:
    group, _ = local.import_rows(build_taste_rows())
    local.store.put("s3://data/users.json", b'{"userId": "u1"}\n')
    for _ in range(2):
        solution = local.create_solution(group, "aws-popularity-count")
        job = local.wait_until_active(
            local.create_batch_job(local.wait_until_active(local.create_version(solution)))
        )
        local.client.delete_solution(solutionArn=solution)
        local.wait_until_gone(solution)
        assert local.describe(job)["status"] == "ACTIVE"
    return None


def _ask_for_v2_lines(local: Local) -> str | None:
    local.client = local.open_client(v2_lines=True)
    group, _ = local.import_rows(build_taste_rows())
    version = local.wait_until_active(local.create_version(local.create_solution(group)))
    options: dict[str, dict[str, Any]] = {
        "all": {},
        "new": {"filterArn": local.create_filter(group)},
    }
    for job, job_options in options.items():
        local.recommend(version, ["u1"], job, numResults=10, **job_options)
        (line,) = local.read_lines(f"s3://data/{job}/out/users.json.out")
        output = json.loads(line)["output"]
        placeholders = 2 if job_options else 0
        assert len(output["recommendedItems"]) == len(output["reasons"]) == 10
        assert len(output["scores"]) == 10 - placeholders
        assert output["reasons"].count(["Popular item"]) == placeholders
    return None


def _read_rounded_metrics(local: Local) -> str | None:
    group, _ = local.import_rows(build_taste_rows())
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-popularity-count"))
    )
    metrics = local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert metrics == {name: round(value, 4) for name, value in metrics.items()}
    return None


def _create_version(local: Local, **params: Any) -> str | None:
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, "aws-popularity-count")
    return _find_refusal(local, "create_solution_version", solutionArn=solution, **params)


def _create_solution(local: Local, **params: Any) -> str | None:
    recipe = RECIPE + "aws-popularity-count"
    params = {"datasetGroupArn": local.create_group(), "recipeArn": recipe, **params}
    return _find_refusal(local, "create_solution", name="films", **params)


def _ask_for_themes(local: Local) -> str | None:
    group, _ = local.import_rows(build_taste_rows())
    version = local.wait_until_active(
        local.create_version(local.create_solution(group, "aws-popularity-count"))
    )
    return _find_refusal(
        local,
        "create_batch_inference_job",
        jobName="themes",
        solutionVersionArn=version,
        roleArn=ROLE,
        jobInput={"s3DataSource": {"path": "s3://data/in.json"}},
        jobOutput={"s3DataDestination": {"path": "s3://data/out/"}},
        batchInferenceJobMode="THEME_GENERATION",
    )


def _replace_interactions_schema(local: Local) -> str | None:
    dataset = local.create_dataset(local.create_group())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _find_refusal(local, "update_dataset", datasetArn=dataset, schemaArn=schema)


def _create_wrong_filter(local: Local) -> str | None:
    group = local.create_group()
    local.create_dataset(group)
    expression = "EXCLUDE ItemID WHERE Items.GENRE IN ($GENRE)"
    params = {"name": "f", "datasetGroupArn": group, "filterExpression": expression}
    return _find_refusal(local, "create_filter", **params)


def _configure_solution(local: Local, **config: Any) -> str | None:
    return _create_solution(local, solutionConfig=config)


KEY = "arn:aws:kms:us-east-1:000000000000:key/k"
# By rule, a function that sends a request of that kind, and how the request ends.
ASKED: dict[str, tuple[Callable[[Local], str | None], str | None]] = {
    "constraints of the service model": (_break_a_constraint, INVALID),
    "unique names, one dataset of a type in a group": (_create_two_datasets_of_a_type, EXISTS),
    "schemas (Avro)": (_create_wrong_schema, INVALID),
    "resources in use, order of deletion": (_delete_schema_in_use, IN_USE),
    "quotas": (_create_one_group_too_many, LIMIT),
    "tags": (_tag_too_often, TAGS),
    "UpdateDataset": (_replace_interactions_schema, INVALID),
    "filters": (_create_wrong_filter, INVALID),
    "unknown hyperparameters": (
        lambda local: _configure_solution(local, algorithmHyperParameters={"depth": "3"}),
        INVALID,
    ),
    "optimizationObjective, trainingDataConfig": (
        lambda local: _configure_solution(
            local,
            optimizationObjective={"objectiveSensitivity": "LOW"},
            trainingDataConfig={"excludedDatasetColumns": {}},
        ),
        None,
    ),
    "performIncrementalUpdate": (
        lambda local: _create_solution(local, performIncrementalUpdate=True),
        INVALID,
    ),
    "trainingMode AUTOTRAIN": (
        lambda local: _create_version(local, trainingMode="AUTOTRAIN"),
        INVALID,
    ),
    "performAutoTraining": (lambda local: _create_solution(local, performAutoTraining=True), None),
    "performAutoML": (lambda local: _create_solution(local, performAutoML=True), INVALID),
    "names of jobs": (_name_again, None),
    "reasons and placeholders of aws-user-personalization-v2": (_ask_for_v2_lines, None),
    "GetSolutionMetrics": (_read_rounded_metrics, None),
    "roleArn": (lambda local: _group(local, roleArn=ROLE, kmsKeyArn=KEY), None),
    "kmsKeyArn": (lambda local: _group(local, kmsKeyArn=KEY), None),
    "domain dataset groups and schemas": (_create_domain_group, INVALID),
    "batchInferenceJobMode THEME_GENERATION": (_ask_for_themes, INVALID),
}


# By rule, the test that checks it, if that takes an import or a training.
ELSEWHERE = {
    "fewer than 1000 interactions": "imports.a_bad_file_is_refused_with_file_and_line",
    "event types": "imports.event_types_and_optional_columns_are_ten_at_most",
    "columns of CSV files": "imports.columns_are_matched_by_name",
    "lengths of values": "imports.strings_of_items_have_a_greatest_length_unless_textual",
    "importMode INCREMENTAL": "walk.full_import_replaces_and_incremental_adds",
    "trainingMode UPDATE": "training_modes.an_update_starts_from_the_latest_version",
    "data deletion jobs": "data_deletion.no_byte_of_the_erased_stays_and_the_others_get_the_same"
    "_lists",
    "performHPO": "training_modes.a_search_chooses_hyperparameters",
    "itemExplorationConfig": "item_metadata.exploration_weight_bounds_the_share_and_0_turns_it_off",
    "rankingInfluence": "answers.options_without_effect_are_logged_once",
    "ids in batch lines": "batch_lines.ids_that_are_numbers_are_taken_as_text",
}


def test_every_rule_has_a_test() -> None:
    assert ASKED.keys() | ELSEWHERE.keys() == {row.name for row in support_table.RULES}
    for name in ELSEWHERE.values():
        module, _, test = name.partition(".")
        assert hasattr(import_module(f"{__package__}.test_{module}"), f"test_{test}"), name


@pytest.mark.parametrize(
    "rule", [row for row in support_table.RULES if row.name in ASKED], ids=lambda rule: rule.name
)
def test_the_service_keeps_the_rule(local: Local, rule: support_table.SupportRow) -> None:
    ask, expected = ASKED[rule.name]
    assert ask(local) == expected
    assert rule.supported or expected == INVALID
