"""Checks that Python in the documentation runs, in a separate project or with a stand-in."""

from __future__ import annotations

import ast
import inspect
import json
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import create_autospec, patch

import dagster as dg
import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.preparation.confined.conversions import ForeignFile
from batchrec_dagster.preparation.sources.limits import Limits
from batchrec_dagster.testing import PipelineRun, StartedPersonalize
from batchrec_dagster_tests.guard.builders import declaration, definitions, module_project
from batchrec_dagster_tests.repository.typed_pages import CodeBlock

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

# The folder of a bucket in the examples.
BUCKET = "/data/my-bucket"
# The pipeline that examples name if they do not define a pipeline.
DEMO = "movielens"
VERSION = "arn:aws:personalize:us-east-1:000000000000:solution/shop/1a2b3c4d"


def check_python(block: CodeBlock, folder: Path) -> None:
    """Run the example, and raise any error that it raises.

    Definitions and components are loaded in a project, and test functions are called.

    folder: an empty folder.
    """
    text = block.text.replace(BUCKET, str(folder / "bucket"))
    if "import dagster as dg" in text:
        _load(text, folder)
    else:
        _run(text, folder)


def _load(text: str, folder: Path) -> None:
    project = module_project(folder)
    classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    if classes:
        is_subclass = "BatchRecommendations" in [ast.unparse(base) for base in classes[0].bases]
        attributes = (
            declaration("shop", "ratings.csv") if is_subclass else {"countries": ["at", "de"]}
        )
        (project.package / "example.py").write_text(text)
        file = project.package / "defs" / "example" / "defs.yaml"
        file.parent.mkdir()
        file.write_text(
            f"type: {project.package.name}.example.{classes[0].name}\n"
            f"attributes: {json.dumps(attributes)}\n"
        )
    else:
        (project.package / "defs" / "example.py").write_text(text)
    if DEMO in text or "@dg.template_var" in text:
        project.declare(declaration(DEMO, "ratings.csv"))
    with definitions(project) as defs:
        dg.Definitions.validate_loadable(defs)
        assert defs.resolve_all_asset_keys()


def _run(text: str, folder: Path) -> None:
    personalize = StartedPersonalize(folder / "personalize")

    def my_pipeline(client: PersonalizeClient, *, bucket: str) -> None:
        """Make lists with a reader's code, from the files that the test wrote."""
        assert client.meta.service_model.service_name == "personalize"
        assert (personalize.bucket, personalize.keys()) == (bucket, ["interactions.csv"])
        personalize.put("recommendations/users.json.out", b"{}")

    names: dict[str, Any] = {
        "my_pipeline": my_pipeline,
        "personalize": personalize.client,
        "version": VERSION,
    }
    avro_file = folder / "rows.avro"
    pl.DataFrame({"user_id": ["1"]}).write_avro(avro_file)
    fixtures = {
        "file": ForeignFile(avro_file, None, avro_file.stat().st_size, Limits()),
        "target": folder / "rows.parquet",
        "local_personalize": personalize,
        "run_pipeline": _run_pipeline,
        "tmp_path": folder / "fixture",
    }
    try:
        # A fixture is called here as a plain function.
        with chdir(folder), patch("pytest.fixture", lambda function: function):
            exec(compile(text, "example.py", "exec"), names)
            for node in ast.parse(text).body:
                if isinstance(node, ast.FunctionDef):
                    function = names[node.name]
                    arguments = [fixtures[name] for name in inspect.signature(function).parameters]
                    result = function(*arguments)
                    if inspect.isgenerator(result):
                        assert len([*result]) == 1
    except ClientError as error:
        # The request is well-formed; there is no such model.
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    finally:
        personalize.close()


def _run_pipeline(name: str, settings: dict[str, Any]) -> PipelineRun:
    """Return a successful run with lists of five items; test_run_pipeline.py makes real runs."""
    assert (name, [*settings]) == ("shop", ["ratings.source"])
    run: Any = create_autospec(PipelineRun, instance=True)
    run.lists = pl.DataFrame({"user_id": ["1"] * 5 + ["2"] * 5, "rank": [*range(1, 6)] * 2})
    run.failed_checks = []
    run.metadata.return_value = {"dagster/row_count": 1_100}
    return run  # type: ignore[no-any-return]
