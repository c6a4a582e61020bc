"""`assets.published_io`: an IO manager of the project stores the published table elsewhere, too."""

from __future__ import annotations

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.first_run import FirstRun
from batchrec_dagster_tests.support import Project, declaration, definitions, table, why

pytestmark = pytest.mark.slow

# Of the team: a warehouse that has a table for each asset, and an asset downstream.
WAREHOUSE = """\
import dagster as dg
import polars as pl

class Warehouse(dg.ConfigurableIOManager):
    folder: str

    def _file(self, key):
        return f"{{self.folder}}/{{'_'.join(key.path)}}.parquet"

    def handle_output(self, context, obj):
        assert type(obj) is pl.DataFrame
        obj.write_parquet(self._file(context.asset_key), mkdir=True)

    def load_input(self, context):
        return pl.read_parquet(self._file(context.upstream_output.asset_key))

@dg.asset(ins={{"lists": dg.AssetIn(key=["shop", "recommendations"])}})
def mailing(lists: pl.DataFrame) -> pl.DataFrame:
    return lists.select("user_id").unique()

warehouse = Warehouse(folder={folder!r})
defs = dg.Definitions(
    assets=[mailing], resources={{"warehouse_io": warehouse, "io_manager": warehouse}}
)
"""


def test_the_table_is_stored_by_an_io_manager_of_the_project(
    first_run: FirstRun, first_run_of_shop: None, project: Project, instance: dg.DagsterInstance
) -> None:
    warehouse = project.root / "warehouse"
    (project.package / "defs" / "warehouse.py").write_text(WAREHOUSE.format(folder=str(warehouse)))
    file = project.package / "defs" / "shop" / "defs.yaml"
    settings = "  assets: {published_io: warehouse_io}\n  sinks: {export: {path: lists.csv}}\n"
    file.write_text(f"{file.read_text()}{settings}")
    keys = [dg.AssetKey(["shop", name]) for name in ("recommendations", "recommendations_export")]
    with definitions(project) as defs:
        job = defs.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(
            instance=instance, asset_selection=[*keys, dg.AssetKey("mailing")], raise_on_error=False
        )
    assert result.success, why(result)
    published = table(project, "shop")
    stored = pl.read_parquet(warehouse / "shop_recommendations.parquet")
    assert stored.equals(published)
    assert pl.read_parquet(warehouse / "mailing.parquet").height == published["user_id"].n_unique()
    # Sinks, the report and commands go on with batchrec's own table.
    exported = pl.read_csv(project.root / "lists.csv")
    assert exported.height == published["user_id"].n_unique()


def test_without_the_io_manager_the_project_does_not_load(project: Project) -> None:
    attributes = declaration("shop", "ratings.csv", assets={"published_io": "warehouse_io"})
    project.declare(attributes)
    with (
        pytest.raises(dg.DagsterInvalidDefinitionError, match="key 'warehouse_io'"),
        definitions(project) as defs,
    ):
        dg.Definitions.validate_loadable(defs)
