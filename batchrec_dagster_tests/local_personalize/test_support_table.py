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
from batchrec_dagster_tests.local_personalize.support import RECIPE, ROLE, Local, taste_rows

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "local-personalize.md"
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
    printed = subprocess.check_output(command, text=True, encoding="utf-8")
    (shown,) = re.findall(BETWEEN, PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown == printed, "put what `batchrec local-personalize --support` prints into the page"


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
    group = local.group()
    refused = _refusal(
        local,
        "create_solution",
        name="films",
        datasetGroupArn=group,
        recipeArn=RECIPE + name,
    )
    assert refused in ((None,) if row.supported else (MISSING, INVALID))


def _refusal(local: Local, operation: str, **params: Any) -> str | None:
    """The exception's name, or None when the request is answered."""
    try:
        getattr(local.client, operation)(**params)
    except local.client.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


def _group(local: Local, **params: Any) -> str | None:
    return _refusal(local, "create_dataset_group", **{"name": "another", **params})


def _constraints(local: Local) -> str | None:
    return _group(local, name="no spaces")


def _one_dataset_of_a_type(local: Local) -> str | None:
    group, _ = local.imported(taste_rows())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _refusal(
        local,
        "create_dataset",
        name="second",
        datasetGroupArn=group,
        schemaArn=schema,
        datasetType="Interactions",
    )


def _schema(local: Local, **params: Any) -> str | None:
    schema = {"schema": build_interactions_schema(event_type=False), **params}
    return _refusal(local, "create_schema", name="s", **schema)


def _wrong_schema(local: Local) -> str | None:
    schema = json.loads(build_interactions_schema(event_type=False))
    del schema["fields"][0]
    return _schema(local, schema=json.dumps(schema))


def _schema_in_use(local: Local) -> str | None:
    local.dataset(local.group())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _refusal(local, "delete_schema", schemaArn=schema)


def _one_group_too_many(local: Local) -> str | None:
    assert Quotas().dataset_groups == 50
    local.quotas = Quotas(dataset_groups=1)
    local.client = local.another_client()
    assert _group(local) is None
    return _group(local, name="one-more")


def _domain(local: Local) -> str | None:
    assert _group(local, domain="ECOMMERCE") is None
    return _schema(local, domain="ECOMMERCE")  # lacks EVENT_TYPE


def _too_many_tags(local: Local) -> str | None:
    arn, tags = local.group(), [{"tagKey": f"k{n}", "tagValue": ""} for n in range(51)]
    for some in (tags[:50], tags[50:]):
        refused = _refusal(local, "tag_resource", resourceArn=arn, tags=some)
    return refused


def _name_again(local: Local) -> str | None:
    group, _ = local.imported(taste_rows())
    local.store.put("s3://data/users.json", b'{"userId": "u1"}\n')
    for _ in range(2):
        solution = local.solution(group, "aws-popularity-count")
        job = local.active(local.batch_job(local.active(local.version(solution))))
        local.client.delete_solution(solutionArn=solution)
        local.gone(solution)
        assert local.describe(job)["status"] == "ACTIVE"
    return None


def _v2_lines(local: Local) -> str | None:
    local.client = local.another_client(v2_lines=True)
    group, _ = local.imported(taste_rows())
    version = local.active(local.version(local.solution(group)))
    options: dict[str, dict[str, Any]] = {"all": {}, "new": {"filterArn": local.filter(group)}}
    for job, more in options.items():
        local.recommended(version, ["u1"], job, numResults=10, **more)
        (line,) = local.lines(f"s3://data/{job}/out/users.json.out")
        output = json.loads(line)["output"]
        placeholders = 2 if more else 0
        assert len(output["recommendedItems"]) == len(output["reasons"]) == 10
        assert len(output["scores"]) == 10 - placeholders
        assert output["reasons"].count(["Popular item"]) == placeholders
    return None


def _rounded_metrics(local: Local) -> str | None:
    group, _ = local.imported(taste_rows())
    version = local.active(local.version(local.solution(group, "aws-popularity-count")))
    metrics = local.client.get_solution_metrics(solutionVersionArn=version)["metrics"]
    assert metrics == {name: round(value, 4) for name, value in metrics.items()}
    return None


def _version(local: Local, **params: Any) -> str | None:
    group, _ = local.imported(taste_rows())
    solution = local.solution(group, "aws-popularity-count")
    return _refusal(local, "create_solution_version", solutionArn=solution, **params)


def _solution(local: Local, **params: Any) -> str | None:
    recipe = RECIPE + "aws-popularity-count"
    params = {"datasetGroupArn": local.group(), "recipeArn": recipe, **params}
    return _refusal(local, "create_solution", name="films", **params)


def _themes(local: Local) -> str | None:
    group, _ = local.imported(taste_rows())
    version = local.active(local.version(local.solution(group, "aws-popularity-count")))
    return _refusal(
        local,
        "create_batch_inference_job",
        jobName="themes",
        solutionVersionArn=version,
        roleArn=ROLE,
        jobInput={"s3DataSource": {"path": "s3://data/in.json"}},
        jobOutput={"s3DataDestination": {"path": "s3://data/out/"}},
        batchInferenceJobMode="THEME_GENERATION",
    )


def _interactions_schema_replaced(local: Local) -> str | None:
    dataset = local.dataset(local.group())
    schema = local.client.list_schemas()["schemas"][0]["schemaArn"]
    return _refusal(local, "update_dataset", datasetArn=dataset, schemaArn=schema)


def _wrong_filter(local: Local) -> str | None:
    group = local.group()
    local.dataset(group)
    expression = "EXCLUDE ItemID WHERE Items.GENRE IN ($GENRE)"
    params = {"name": "f", "datasetGroupArn": group, "filterExpression": expression}
    return _refusal(local, "create_filter", **params)


def _configured(local: Local, **config: Any) -> str | None:
    return _solution(local, solutionConfig=config)


KEY = "arn:aws:kms:us-east-1:000000000000:key/k"
# A rule -> a request that it is about, and what becomes of it.
ASKED: dict[str, tuple[Callable[[Local], str | None], str | None]] = {
    "constraints of the service model": (_constraints, INVALID),
    "unique names, one dataset of a type in a group": (_one_dataset_of_a_type, EXISTS),
    "schemas (Avro)": (_wrong_schema, INVALID),
    "resources in use, order of deletion": (_schema_in_use, IN_USE),
    "quotas": (_one_group_too_many, LIMIT),
    "tags": (_too_many_tags, TAGS),
    "UpdateDataset": (_interactions_schema_replaced, INVALID),
    "filters": (_wrong_filter, INVALID),
    "unknown hyperparameters": (
        lambda local: _configured(local, algorithmHyperParameters={"depth": "3"}),
        INVALID,
    ),
    "optimizationObjective, trainingDataConfig": (
        lambda local: _configured(
            local,
            optimizationObjective={"objectiveSensitivity": "LOW"},
            trainingDataConfig={"excludedDatasetColumns": {}},
        ),
        None,
    ),
    "performIncrementalUpdate": (
        lambda local: _solution(local, performIncrementalUpdate=True),
        INVALID,
    ),
    "trainingMode AUTOTRAIN": (lambda local: _version(local, trainingMode="AUTOTRAIN"), INVALID),
    "performAutoTraining": (lambda local: _solution(local, performAutoTraining=True), None),
    "performAutoML": (lambda local: _solution(local, performAutoML=True), INVALID),
    "names of jobs": (_name_again, None),
    "reasons and placeholders of aws-user-personalization-v2": (_v2_lines, None),
    "GetSolutionMetrics": (_rounded_metrics, None),
    "roleArn": (lambda local: _group(local, roleArn=ROLE, kmsKeyArn=KEY), None),
    "kmsKeyArn": (lambda local: _group(local, kmsKeyArn=KEY), None),
    "domain dataset groups and schemas": (_domain, INVALID),
    "batchInferenceJobMode THEME_GENERATION": (_themes, INVALID),
}


# A rule -> the test that checks it, where that takes an import or a training.
ELSEWHERE = {
    "fewer than 1000 interactions": "imports.a_bad_file_is_refused_with_file_and_line",
    "event types": "imports.event_types_and_optional_columns_are_ten_at_most",
    "columns of CSV files": "imports.columns_are_matched_by_name",
    "lengths of values": "imports.strings_of_items_have_a_greatest_length_unless_textual",
    "importMode INCREMENTAL": "walk.full_import_replaces_and_incremental_adds",
    "trainingMode UPDATE": "training_modes.an_update_starts_from_the_latest_version",
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
