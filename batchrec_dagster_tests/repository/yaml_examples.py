"""Checks of YAML in the documentation: whole files or parts of a pipeline's settings."""

from __future__ import annotations

import itertools
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import duckdb
import jsonschema
import yaml
from dagster._core.instance.ref import InstanceRef

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.json_schema import build_declaration_schema
from batchrec_dagster.personalize.prices import Prices
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.run_options import OPTIONS
from batchrec_dagster_tests.guard.builders import Project, definitions, module_project
from batchrec_dagster_tests.repository.typed_pages import CodeBlock

# The shop whose settings the examples show. It has the settings that they leave out.
SHOP = yaml.safe_load("""
name: shop
ratings:
  source: data/orders.csv
  columns:
    user: customer_id
    item: sku
    timestamp: ordered_at
    event_type: event
    event_value: paid
items:
  source: data/products.csv
  columns:
    item: sku
    title: title
    image: image
    link: link
    created: created
    numbers: {PRICE: price, STOCK: stock}
    categories: {CATEGORY: category, CONSUMABLE: consumable, STATUS: status, GENRES: genres}
users:
  source: data/customers.csv
  columns:
    user: customer_id
    numbers: {AGE: age}
    categories: {COUNTRY: country, CONSENT: newsletter}
""")
# The keys that run configuration of a pipeline's jobs may have.
LAUNCHPAD = {"ops", *(option.name for option in OPTIONS)}
# A setting in a comment, which suggests a setting or another way to write it.
SUGGESTION = re.compile(r"^( *)# ( *\w+:.*)$", re.MULTILINE)
# Sentences show settings of these blocks without the block around them.
PLACES = (
    (),
    ("batch_users",),
    ("interactions",),
    ("recommendations",),
    ("recommendations", "rules"),
    ("similar_items", "rules"),
)
FILE_NAME = re.compile(r"\.(csv|dat|json|jsonl|md|parquet|py|yaml)$")


def check_yaml(block: CodeBlock, folder: Path) -> None:
    """Load the example as batchrec or Dagster would, without its suggestions and with them.

    folder: an empty folder, for files of the example's project.

    Raises the loader's error if the example is wrong.
    """
    for text in {block.text, SUGGESTION.sub(r"\1\2", block.text)}:
        _check_document(yaml.safe_load(text), text, folder)


def _check_document(content: dict[str, Any], text: str, folder: Path) -> None:
    keys = set(content)
    if content.get("type") == COMPONENT_TYPE:
        declare(content["attributes"])
    elif keys == {"attributes"}:
        declare(complement(content["attributes"]))
    elif keys <= Prices.model_fields.keys():
        Prices.model_validate(content)
    elif keys <= LAUNCHPAD:
        _check_run_config(content, folder)
    elif keys <= {"storage", "compute_logs"}:
        (folder / "dagster.yaml").write_text(text)
        InstanceRef.from_dir(str(folder))
    else:
        declare(complement(content))


def complement(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shop's settings with these settings in their place, block by block.

    Ratings without a source change the shop's ratings instead of replacing them.
    """
    pipeline = {**SHOP, **settings}
    ratings = settings.get("ratings", {})
    if "source" not in ratings:
        columns = {**SHOP["ratings"]["columns"], **ratings.get("columns", {})}
        pipeline["ratings"] = {**SHOP["ratings"], **ratings, "columns": columns}
    return pipeline


def declare(attributes: Mapping[str, Any]) -> None:
    """Declare the pipeline, and parse its queries."""
    variables = dict.fromkeys(
        re.findall(r"{{ env\.(\w+) }}", json.dumps(attributes, default=str)), "1"
    )
    with patch.dict(os.environ, variables):
        pipeline = BatchRecommendations.model_validate(attributes)
    for block in (pipeline.ratings, pipeline.items, pipeline.users, pipeline.batch_users):
        for name in ("query", "version_query"):
            query = getattr(block, name, None)
            if query:
                (_,) = duckdb.extract_statements(query)


def _check_run_config(content: Mapping[str, Any], folder: Path) -> None:
    """Require that the refresh accepts run options, and each job with these steps their config."""
    project = _make_project(folder)
    project.declare(SHOP)
    steps = content.get("ops", {}).keys()
    with definitions(project) as defs:
        jobs = [defs.resolve_job_def("shop_refresh")]
        if steps:
            jobs = [
                job
                for job in defs.resolve_all_job_defs()
                if steps <= {node.name for node in job.nodes}
            ]
        assert jobs, f"no job has these steps: {', '.join(steps)}"
        for job in jobs:
            dg.validate_run_config(job, dict(content))


def _make_project(folder: Path) -> Project:
    root = folder / uuid.uuid4().hex
    root.mkdir()
    return module_project(root)


def check_setting(code: str) -> bool:
    """Return whether the code in a sentence is or names a setting, and require that it is valid.

    code: such as `recommendations.filter`, or `gate: {max_shrink: 0.2}`.

    Raises the loader's error if the value is wrong, or AssertionError if no such setting exists.
    """
    name, colon, value = code.partition(":")
    path = name.split(".")
    if not re.fullmatch(r"[a-z_]+(\.\w+)*", name) or FILE_NAME.search(name) or "…" in code:
        return False
    if not colon or not value.strip():
        is_setting = path[0] in _settings_at(()) and (len(path) > 1 or bool(colon))
        if is_setting:
            assert _find_settings(path), f"there is no setting {code}"
        return is_setting
    if value.startswith(" ") and path[0] in _list_all_settings():
        _require_fit(path, yaml.safe_load(code)[name], code)
        return True
    return False


def _require_fit(path: list[str], value: object, code: str) -> None:
    """Require that the setting is valid in a block that may have it.

    A block of PLACES is loaded with the setting. For all other blocks the JSON schema decides.
    """
    errors = []
    for place in PLACES:
        if path[0] in _settings_at(place):
            settings = value
            for outer in reversed((*place, *path)):
                settings = {outer: settings}
            assert isinstance(settings, dict)
            try:
                declare(complement(settings))
            except ValueError as error:
                errors.append(str(error))
            else:
                return
    schema = {"$defs": _schema()["$defs"]}
    possible_schemas = [{**schema, **setting} for setting in _list_all_settings()[path[0]]]
    plain = json.loads(json.dumps(value, default=str))
    if len(path) > 1 or not any(map(partial(_is_valid, plain), possible_schemas)):
        raise AssertionError("\n".join([f"{code} fits nowhere", *errors]))


def _is_valid(value: object, schema: dict[str, Any]) -> bool:
    return not [*jsonschema.Draft7Validator(schema).iter_errors(value)]


@cache
def _list_all_settings() -> dict[str, list[dict[str, Any]]]:
    """Return the schemas of all settings outside PLACES, by name."""
    settings: dict[str, list[dict[str, Any]]] = {}
    of_places = {id(setting) for place in PLACES for setting in _settings_at(place).values()}
    blocks = [_schema()["properties"]["attributes"], *_schema()["$defs"].values()]
    for block in blocks:
        for name, setting in block.get("properties", {}).items():
            schemas = settings.setdefault(name, [])
            if id(setting) not in of_places:
                schemas.append(setting)
    return settings


@cache
def _schema() -> dict[str, Any]:
    return build_declaration_schema()


def _settings_at(place: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings of the block by name."""
    part = _schema()["properties"]["attributes"]
    for name in place:
        part = next(
            inner for inner in _list_parts(part["properties"][name]) if "properties" in inner
        )
    properties: dict[str, Any] = part["properties"]
    return properties


def _list_parts(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the setting's schema and each alternative in it, with references resolved."""
    yield part
    if "$ref" in part:
        yield from _list_parts(_schema()["$defs"][part["$ref"].rpartition("/")[2]])
    for alternative in (*part.get("anyOf", ()), *part.get("allOf", ())):
        yield from _list_parts(alternative)
    if isinstance(part.get("items"), dict):
        yield from _list_parts(part["items"])


def _find_settings(path: list[str]) -> list[dict[str, Any]]:
    """Return the setting's schemas: several if the block may be of several kinds."""
    parts = [_schema()["properties"]["attributes"]]
    for name in path:
        inner = []
        for part in itertools.chain.from_iterable(map(_list_parts, parts)):
            if name in part.get("properties", {}):
                inner.append(part["properties"][name])
            elif isinstance(part.get("additionalProperties"), dict):
                inner.append(part["additionalProperties"])
        parts = inner
    return parts
