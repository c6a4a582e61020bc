"""Tests that a mistake in a declaration is reported with file, line and setting at loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    definitions,
    module_project,
)
from batchrec_dagster_tests.guard.seams.declaration import Refusal, find_refusals
from batchrec_dagster_tests.texts import assert_texts

COMPONENT = "batchrec_dagster.BatchRecommendations"
CASES: list[tuple[int, str, dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("refusals.yaml").read_text()
)["refusals"]
TOO_MANY = (14, "segments.items", {"segments": {"items": [*range(501)]}})


def refuse(folder: Path, attributes: dict[str, Any]) -> list[Refusal]:
    """Return the refusals of the pipeline `shop` with these attributes instead of usual ones."""
    project = module_project(folder)
    file = project.declare({**declaration("shop", "ratings.csv"), **attributes})
    refusals = find_refusals(project)
    assert all(refusal.file == file for refusal in refusals)
    return refusals


def drop_positions(setting: str) -> str:
    """Return the path of a setting without positions in lists."""
    return ".".join(part for part in setting.split(".") if not part.isdigit())


def test_each_mistake_is_told_with_its_line_and_setting(tmp_path: Path) -> None:
    texts, wrong = [], []
    for number, (line, setting, attributes) in enumerate([*CASES, TOO_MANY]):
        refusals = refuse(tmp_path / str(number), attributes)
        found = [(refusal.line, drop_positions(refusal.setting)) for refusal in refusals]
        if found != [(line, drop_positions(setting))]:
            wrong.append((attributes, found))
        texts += [
            (f"{attributes}"[:200], f"line {refusal.line}: {refusal.setting}: {refusal.message}")
            for refusal in refusals
        ]
    assert wrong == []
    assert_texts("settings", texts)


def test_a_secret_in_a_wrong_setting_is_not_repeated(tmp_path: Path) -> None:
    (refusal,) = refuse(tmp_path, {"alerts": {"urls_env": "slack://planted/token"}})
    assert "planted" not in refusal.message


def test_a_misspelt_setting_is_told_the_right_name(tmp_path: Path) -> None:
    (refusal,) = refuse(tmp_path, {"recommendations": {"num_result": 5}})
    assert "num_results" in refusal.message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    schedule = {"cron": "x", "timezone": "y", "on": True}
    refusals = refuse(tmp_path, {"schedule": schedule})
    settings = sorted(refusal.setting for refusal in refusals)
    assert settings == ["schedule.cron", "schedule.on", "schedule.timezone"]


# Texts of a defs.yaml below defs/, with the named line and words of the message.
BROKEN_FILES = {
    "not_yaml": (f"type: {COMPONENT}\nattributes: {{name: x, ratings: [\n", 3, "YAML"),
    "mapping": (f"type: {COMPONENT}\nattributes: {{}}\n  name: shop: x\n", 3, "YAML"),
    "empty": ("# later\n", 1, "empty"),
    "type": ("\ntype: BatchRecommendations\nattributes: {}\n", 2, COMPONENT),
    "no_type": ("attributes: {name: x}  # type: none\n", 1, "type"),
    "list": ("- type: x\n", 1, "attributes"),
    "flat": (f"type: {COMPONENT}\nname: x\n", 2, "attributes"),
    "twice": (
        f"type: {COMPONENT}\nattributes:\n  name: x\n  ratings:\n    source: r\n    source: s\n",
        6,
        "source",
    ),
    "twice_in_a_line": (
        f"type: {COMPONENT}\nattributes: {{name: x, ratings: {{source: r, source: s}}}}\n",
        2,
        "source",
    ),
    "latin_1": (
        f"type: {COMPONENT}\nattributes: {{name: x, ratings: {{source: caf\xe9}}}}\n",
        2,
        "UTF-8",
    ),
    "control": (f"type: {COMPONENT}\nattributes: {{name: '\x01'}}\n", 2, "YAML"),
    "deep": (f"type: {COMPONENT}\nattributes: {'[' * 1500}\n", 1, "YAML"),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_file_that_is_no_declaration_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    text, line, part = BROKEN_FILES[name]
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv"))
    file = project.package / "defs" / "group" / name / "defs.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(text.encode("latin-1"))
    refusals = find_refusals(project)
    assert [(refusal.file, refusal.line) for refusal in refusals] == [(file, line)]
    assert part in f"{refusals[0].setting} {refusals[0].message}"


@pytest.mark.parametrize("name", ["defs.yml", "component.yaml"])
def test_a_mistake_in_each_file_that_dagster_loads_has_its_line(tmp_path: Path, name: str) -> None:
    project = module_project(tmp_path)
    file = project.declare(declaration("shop", "ratings.csv", gate={"max_drop": 2}))
    file = file.rename(file.with_name(name))
    (refusal,) = find_refusals(project)
    assert (refusal.file, refusal.setting) == (file, "gate.max_drop")
    assert file.read_text().splitlines()[refusal.line - 1].strip() == "max_drop: 2"
    file.write_text(file.read_text().replace("max_drop: 2", "max_drop: 1"))
    assert find_refusals(project) == []


def test_a_mistake_in_the_second_pipeline_of_a_file_has_its_line(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    file = project.declare(declaration("club", "ratings.csv", gate={"max_drop": 2}))
    second = file.read_text()
    first = project.declare(declaration("shop", "ratings.csv", gate={"max_drop": 1}))
    text = f"{first.read_text()}---\n{second}"
    shutil.rmtree(file.parent)
    # Problems of one block, of two blocks together, and of two pipelines with the same place.
    first.write_text(text)
    (refusal,) = find_refusals(project)
    assert text.splitlines()[refusal.line - 1].strip() == "max_drop: 2"
    first.write_text(text := text.replace("max_drop: 2", "max_drop: 0.5").replace("club", "shop"))
    lines = [refusal.line for refusal in find_refusals(project)]
    names = [number for number, line in enumerate(text.splitlines(), 1) if "name: shop" in line]
    assert lines == names


def test_a_name_that_two_files_declare_is_told_with_both(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    first = project.declare(declaration("shop", "ratings.csv"))
    second = first.parent.parent / "shop_copy" / "defs.yaml"
    second.parent.mkdir()
    shutil.copy(first, second)
    refusals = find_refusals(project)
    assert {(refusal.file, refusal.line) for refusal in refusals} == {(first, 3), (second, 3)}
    for refusal, other in zip(refusals, (second, first), strict=True):
        assert str(other) in refusal.message


def test_two_lists_that_would_write_to_the_same_table_are_refused(tmp_path: Path) -> None:
    project = module_project(tmp_path)
    sinks = {"dynamodb": {"table": "lists"}}
    files = {project.declare(declaration(name, "r.csv", sinks=sinks)) for name in ("one", "two")}
    refusals = find_refusals(project)
    assert {refusal.file for refusal in refusals} == files
    for refusal in refusals:
        assert refusal.setting == "sinks.dynamodb.table"
        assert "one and two" in refusal.message


def test_similar_items_in_the_table_of_the_lists_are_refused(tmp_path: Path) -> None:
    sinks = {"sinks": {"dynamodb": {"table": "lists"}}}
    refusals = refuse(tmp_path, {**sinks, "similar_items": {"within_days": 7, **sinks}})
    assert [refusal.setting for refusal in refusals] == [
        "sinks.dynamodb.table",
        "similar_items.sinks.dynamodb.table",
    ]
    assert all("shop and shop/similar_items" in refusal.message for refusal in refusals)


# The schema that editors read


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the JSON schema of a new project."""
    folder = tmp_path_factory.mktemp("schema")
    result = CliRunner().invoke(main, ["init", str(folder / "shop")])
    assert result.exit_code == 0, result.output
    (file,) = (folder / "shop").glob("*.schema.json")
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def has_schema_errors(schema: dict[str, Any], attributes: dict[str, Any]) -> bool:
    document = {"type": COMPONENT, "attributes": attributes}
    # YAML has dates. An editor takes a date for text.
    plain = json.loads(json.dumps(document, default=str))
    return any(jsonschema.Draft7Validator(schema).iter_errors(plain))


@pytest.mark.parametrize(
    "attributes",
    [
        {"name": "my shop"},
        {"colour": "red"},
        {"ratings": {"sorce": "x"}},
        {"ratings": "ratings.csv"},
        {"ratings": {"source": "x", "format": "xml"}},
        {"solution": {"recipe": "aws-x"}},
        {"recommendations": {"num_results": 0}},
        {"schedule": {"enabled": "perhaps"}},
    ],
)
def test_an_editor_marks_a_mistake(schema: dict[str, Any], attributes: dict[str, Any]) -> None:
    good = declaration("shop", "ratings.csv")
    assert not has_schema_errors(schema, good)
    assert has_schema_errors(schema, {**good, **attributes})


@pytest.mark.parametrize("block", ["ratings", "recommendations", "gate", "schedule", "sinks"])
def test_an_editor_and_dg_check_yaml_name_a_misspelt_setting(
    schema: dict[str, Any], block: str
) -> None:
    attributes = declaration("shop", "ratings.csv")
    attributes[block] = {**attributes.get(block, {}), "sorce": "x"}
    document = {"type": COMPONENT, "attributes": attributes}
    (error,) = jsonschema.Draft7Validator(schema).iter_errors(document)
    assert [*error.absolute_path] == ["attributes", block]
    assert "sorce" in error.message
    assert "any of the given schemas" not in error.message


def test_an_editor_describes_every_setting(schema: dict[str, Any]) -> None:
    parts = {"attributes": schema["properties"]["attributes"], **schema["$defs"]}
    settings = {
        f"{part}.{name}": setting
        for part, block in parts.items()
        for name, setting in block["properties"].items()
    }
    assert len(settings) > 50
    assert [name for name, setting in settings.items() if not setting.get("description")] == []


def test_the_declared_pipelines_of_this_project_satisfy_the_editor(schema: dict[str, Any]) -> None:
    files = [*(REPOSITORY / "batchrec_dagster" / "defs").rglob("defs.yaml")]
    assert files
    for file in files:
        assert not has_schema_errors(schema, yaml.safe_load(file.read_text())["attributes"]), file


def test_the_pipeline_that_the_readme_shows_loads(tmp_path: Path, schema: dict[str, Any]) -> None:
    block = (REPOSITORY / "README.md").read_text().partition("```yaml\ntype: ")[2]
    attributes = yaml.safe_load(f"type: {block.partition('```')[0]}")["attributes"]
    assert not has_schema_errors(schema, attributes)
    project: Project = module_project(tmp_path)
    project.declare(attributes)
    with definitions(project) as defs:
        assert defs.resolve_job_def(f"{attributes['name']}_refresh")
