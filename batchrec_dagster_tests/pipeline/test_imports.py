"""What loading pipelines imports: every start of Dagster, and every step in its own process, waits
for it."""

import subprocess
import sys

import dagster as dg
import pytest

from batchrec_dagster.pipeline.spark_on_aws import MODULES
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions

# Each is imported where it is used.


@pytest.mark.slow
def test_the_spark_job_needs_only_the_modules_that_are_uploaded_with_it() -> None:
    code = (
        "import sys; sys.modules['dagster'] = None;"
        "import batchrec_dagster.preparation.spark.job;"
        "print(*(name for name in sys.modules if name.startswith('batchrec_dagster.')))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    uploaded = {name.removesuffix("/__init__.py").removesuffix(".py") for name in MODULES}
    modules = {name.partition(".")[2].replace(".", "/") for name in process.stdout.split()}
    assert {name for name in modules if "spark" not in name} <= uploaded


def test_pipelines_share_the_schemas_that_dagster_would_make_for_each(
    project: Project,
) -> None:
    for name in ("one", "two"):
        project.declare(declaration(name, "ratings.csv"))
    with definitions(project) as defs:
        assets = defs.get_repository_def().assets_defs_by_key
    first, second = (assets[dg.AssetKey([name, "recommendations"])].op for name in ("one", "two"))
    assert first.config_schema.as_field().config_type is second.config_schema.as_field().config_type
