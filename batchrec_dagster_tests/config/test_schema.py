"""The JSON schema of a defs.yaml takes what the loader takes, and marks what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from dagster.components.component_scaffolding import scaffold_object

from batchrec_dagster.config.json_schema import build_declaration_schema
from batchrec_dagster.config.new_declaration import SCHEMA_FILE
from batchrec_dagster.pipeline.built_pipelines import get_built_pipelines
from batchrec_dagster_tests.guard.builders import REPOSITORY, Project, declaration, definitions

DECLARED = sorted((REPOSITORY / "batchrec_dagster" / "defs").rglob("defs.yaml"))
SCHEMA = build_declaration_schema()


def list_schema_errors(attributes: dict[str, Any]) -> list[str]:
    """What is wrong with a declaration, by the schema."""
    document = {"type": "batchrec_dagster.BatchRecommendations", "attributes": attributes}
    # YAML has dates, which an editor takes for text.
    plain = json.loads(json.dumps(document, default=str))
    return [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(plain)]


@pytest.mark.parametrize("file", DECLARED, ids=lambda file: file.parent.name)
def test_declared_pipelines_keep_to_it_and_say_where_it_is(file: Path) -> None:
    text = file.read_text()
    assert list_schema_errors(yaml.safe_load(text)["attributes"]) == []
    (path,) = re.findall("^# yaml-language-server: [$]schema=(.+)$", text, re.MULTILINE)
    assert (file.parent / path).resolve() == SCHEMA_FILE


def test_what_the_readme_shows_keeps_to_it() -> None:
    (block,) = re.findall(
        "^```yaml\n(type: .+?)^```$", (REPOSITORY / "README.md").read_text(), re.S | re.M
    )
    assert list_schema_errors(yaml.safe_load(block)["attributes"]) == []


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
def test_what_is_impossible_is_marked_in_the_editor(attributes: dict[str, Any]) -> None:
    good = declaration("shop", "ratings.csv")
    assert list_schema_errors(good) == []
    assert list_schema_errors({**good, **attributes}) != []


TYPE = "batchrec_dagster.BatchRecommendations"


def test_what_dagsters_dg_scaffolds_loads(project: Project) -> None:
    folder, schema = project.package / "defs" / "shop", project.root / "defs.schema.json"
    gitignore = project.root / ".gitignore"
    gitignore.write_text("*.pyc")
    schema.write_text(SCHEMA_FILE.read_text())
    scaffold_object(folder, TYPE, None, "yaml", project.root)
    declaration_json = json.dumps({"ratings": "club.csv"})
    scaffold_object(
        project.package / "defs" / "2 clubs", TYPE, declaration_json, "yaml", project.root
    )
    scaffold_object(folder, TYPE, declaration_json, "yaml", project.root, append=True)
    file = folder / "defs.yaml"
    sample, attributes_added = yaml.safe_load_all(file.read_text())
    assert list_schema_errors(sample["attributes"]) == []
    assert sample["attributes"]["ratings"] == {"source": "sample://hetrec"}
    assert attributes_added["attributes"]["ratings"] == {"source": "club.csv"}
    (path, _) = re.findall("^# yaml-language-server: [$]schema=(.+)$", file.read_text(), re.M)
    assert (folder / path).resolve() == schema
    file.write_text(file.read_text().partition("---")[0])
    # Once, whatever else is there.
    assert gitignore.read_text() == "*.pyc\n.batchrec/\n"
    in_python = project.package / "defs" / "code"
    scaffold_object(in_python, TYPE, json.dumps({"ratings": 'a "b".csv'}), "python", project.root)
    assert [path.name for path in in_python.iterdir()] == ["component.py"]
    with definitions(project) as defs:
        for name in ("shop", "p2_clubs", "code"):
            assert defs.resolve_job_def(f"{name}_refresh")
        assert defs.component_tree is not None
        pipelines = {one.name: one for one in get_built_pipelines(defs.component_tree)}
    assert pipelines["code"].ratings.source == 'a "b".csv'
