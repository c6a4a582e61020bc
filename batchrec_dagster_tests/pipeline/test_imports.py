"""What loading pipelines imports: every start of Dagster, and every step in its own process, waits
for it."""

import dagster as dg

from batchrec_dagster_tests.guard.builders import Project, declaration, definitions


def test_pipelines_share_the_schemas_that_dagster_would_make_for_each(
    project: Project,
) -> None:
    for name in ("one", "two"):
        project.declare(declaration(name, "ratings.csv"))
    with definitions(project) as defs:
        assets = defs.get_repository_def().assets_defs_by_key
    first, second = (assets[dg.AssetKey([name, "recommendations"])].op for name in ("one", "two"))
    assert first.config_schema.as_field().config_type is second.config_schema.as_field().config_type
