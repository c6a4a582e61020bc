"""Tests of `source: asset://KEY`, which reads ratings from another asset of the project."""

from __future__ import annotations

from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    declaration,
    definitions,
    interactions,
    why,
    write_ratings,
)

ORDERS = dg.AssetKey(["sales", "orders"])
UPSTREAM = """\
import dagster as dg
import pandas as pd
import polars as pl

@dg.asset(key_prefix="sales", metadata={metadata!r})
def orders() -> {returns}:
    frame = pl.read_csv({file!r})
    {body}
"""


def upstream(project: Project, returns: str, body: str, **metadata: str) -> None:
    file = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "asset://sales/orders"))
    text = UPSTREAM.format(metadata=metadata, returns=returns, body=body, file=str(file))
    (project.package / "defs" / "orders.py").write_text(text)


def run(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Run the upstream asset and the preparation of its ratings."""
    selection = [
        ORDERS,
        *(dg.AssetKey(["shop", asset]) for asset in ("raw_ratings", "interactions")),
    ]
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=selection, raise_on_error=False
        )


@pytest.mark.parametrize(
    ("returns", "body"),
    [
        ("pl.DataFrame", "return frame"),
        ("pd.DataFrame", "return frame.to_pandas()"),
        ("object", "return frame.to_arrow()"),
        ("str", "return {file!r}"),
    ],
)
def test_rows_come_from_what_its_io_manager_loads(
    project: Project, instance: dg.DagsterInstance, returns: str, body: str
) -> None:
    upstream(project, returns, body.format(file=str(project.root / "ratings.csv")))
    result = run(project, instance)
    assert result.success, why(result)
    expected = pl.read_csv(project.root / "ratings.csv").filter(pl.col("rating") >= 3.5)
    assert interactions(project, "shop").height == expected.height


def test_rows_come_from_the_file_that_its_metadata_names(
    project: Project, instance: dg.DagsterInstance
) -> None:
    file = project.root / "out" / "orders.parquet"
    file.parent.mkdir()
    write = f"frame.write_parquet({str(file)!r})"
    upstream(project, "None", write, path="out/orders.parquet")
    result = run(project, instance)
    assert result.success, why(result)


WAREHOUSE = "snowflake://ana:planted@shop/sales/public/orders"
OUTPUT = f"return dg.Output(frame, metadata={{{{'dagster/uri': {WAREHOUSE!r}}}}})"


@pytest.mark.parametrize(
    ("metadata", "returns", "body"),
    [
        ({"dagster/uri": WAREHOUSE}, "pl.DataFrame", "return frame"),
        ({}, "dg.Output[pl.DataFrame]", OUTPUT.format()),
        (
            {"dagster/uri": WAREHOUSE, "path": "orders.parquet"},
            "None",
            "frame.write_parquet('orders.parquet')",
        ),
    ],
    ids=["of the definition", "of the materialization", "next to a path"],
)
def test_an_address_that_is_no_file_leaves_the_rows_to_the_io_manager_or_the_path(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    metadata: dict[str, str],
    returns: str,
    body: str,
) -> None:
    monkeypatch.chdir(project.root)
    upstream(project, returns, body, **metadata)
    for seed in (0, 1):
        write_ratings(project.root / "ratings.csv", seed=seed)
        result = run(project, instance)
        assert result.success, why(result)
        expected = pl.read_csv(project.root / "ratings.csv").filter(pl.col("rating") >= 3.5)
        assert interactions(project, "shop").height == expected.height


def test_a_table_of_a_database_that_no_io_manager_loads_is_refused_with_the_way_to_read_it(
    project: Project, instance: dg.DagsterInstance
) -> None:
    upstream(project, "None", "pass", **{"dagster/uri": WAREHOUSE})
    message = why(run(project, instance))
    assert message.startswith("asset://sales/orders: ")
    assert "write source: sql+env://VARIABLE, a query, and deps: [sales/orders]" in message
    assert "planted" not in message


def test_it_is_upstream_of_the_ratings_and_waited_for(
    project: Project, instance: dg.DagsterInstance
) -> None:
    upstream(project, "pl.DataFrame", "return frame")
    raw = dg.AssetKey(["shop", "raw_ratings"])
    with definitions(project) as defs:
        assert defs.resolve_asset_graph().get(raw).parent_keys == {ORDERS}
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance, asset_selection=[raw], raise_on_error=False
        )
    assert why(result).startswith("asset://sales/orders was never materialized: materialize it")


def test_an_asset_that_changed_is_read_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    upstream(project, "pl.DataFrame", "return frame")
    assert run(project, instance).success
    before = interactions(project, "shop")
    write_ratings(project.root / "ratings.csv", seed=1)
    assert run(project, instance).success
    assert not interactions(project, "shop").equals(before)


def test_a_query_joins_it_with_a_file(project: Project, instance: dg.DagsterInstance) -> None:
    upstream(project, "pl.DataFrame", "return frame")
    (project.root / "films.csv").write_text("film\n" + "\n".join(map(str, range(70))))
    ratings = pl.read_csv(project.root / "ratings.csv")
    item, time = COLUMNS["item"], COLUMNS["timestamp"]
    source = {"ratings": "asset://sales/orders", "films": "films.csv"}
    query = f'SELECT * FROM ratings WHERE {item} IN (SELECT film::INT FROM films) ORDER BY "{time}"'
    attributes = declaration("shop", "unused")
    attributes["ratings"] |= {"source": source, "query": query}
    project.declare(attributes)
    result = run(project, instance)
    assert result.success, why(result)
    expected = ratings.filter(pl.col("rating") >= 3.5, pl.col(item) < 70)
    assert interactions(project, "shop").height == expected.height < ratings.height


def test_an_upstream_value_that_is_no_table_is_refused(
    project: Project, instance: dg.DagsterInstance
) -> None:
    upstream(project, "int", "return 7")
    assert "asset://sales/orders: its IO manager cannot load it as a table" in why(
        run(project, instance)
    )


# The ratings by day of the week, from a team's partitioned asset. The upstream metadata and the IO
# manager are the test's.
PARTITIONED = """\
import dagster as dg
import polars as pl
import batchrec_dagster

days = {partitions}

@dg.asset(key_prefix="sales", partitions_def=days)
def orders(context: dg.AssetExecutionContext):
    frame = pl.read_csv({file!r})
    number = days.get_partition_keys().index(context.partition_key)
    {body}

defs = dg.Definitions(assets=[orders], resources={{"io_manager": {io_manager}}})
"""
DAILY = 'dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")'
STATIC = 'dg.StaticPartitionsDefinition(["de", "at", "ch"])'
KINDS = 'dg.StaticPartitionsDefinition(["web"])'
BY_TWO = f'dg.MultiPartitionsDefinition({{"kind": {KINDS}, "region": {STATIC}}})'
PARTITIONS = {
    DAILY: ["2026-01-01", "2026-01-02", "2026-01-03"],
    STATIC: ["de", "at", "ch"],
    BY_TWO: ["web|de", "web|at", "web|ch"],
}
OURS = 'batchrec_dagster.resources()["batchrec_parquet_io"]'
A_THIRD = "return frame.filter(pl.col('userId') % 3 == number)"
IO_MANAGERS = [OURS, *['dg.FilesystemIOManager(base_dir="{root}/theirs")'] * 2]


def partitioned(
    project: Project,
    *,
    body: str = A_THIRD,
    partitions: str = DAILY,
    io_manager: str = OURS,
) -> None:
    """Return an upstream asset of three partitions, each with a third of the users."""
    file = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", "asset://sales/orders"))
    text = PARTITIONED.format(
        partitions=partitions,
        file=str(file),
        body=body,
        io_manager=io_manager.format(root=project.root),
    )
    (project.package / "defs" / "orders.py").write_text(text)


def materialize(
    project: Project,
    instance: dg.DagsterInstance,
    partitions: list[str],
    *assets: str,
) -> dg.ExecuteInProcessResult:
    """Materialize these partitions of the asset, and then the ratings and the pipeline's assets."""
    with definitions(project) as defs:
        job = defs.resolve_implicit_global_asset_job_def()
        for key in partitions:
            assert job.execute_in_process(
                instance=instance, asset_selection=[ORDERS], partition_key=key
            ).success
        return defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(["shop", name]) for name in ("raw_ratings", *assets)],
            raise_on_error=False,
        )


def users_of(project: Project) -> set[int]:
    """Return the thirds of the users that have ratings."""
    return {int(str(user).lstrip("Kö")) % 3 for user in read_raw(project)["userId"]}


def read_raw(project: Project) -> pl.DataFrame:
    (file,) = (project.storage / "shop" / "raw" / "ratings").glob("*.parquet")
    return pl.read_parquet(file)


@pytest.mark.parametrize(
    ("io_manager", "partitions"),
    [*zip(IO_MANAGERS, PARTITIONS, strict=True)],
    ids=["ours", "theirs", "theirs by two"],
)
def test_all_partitions_are_put_together(
    project: Project, instance: dg.DagsterInstance, io_manager: str, partitions: str
) -> None:
    partitioned(project, partitions=partitions, io_manager=io_manager)
    result = materialize(project, instance, PARTITIONS[partitions])
    assert result.success, why(result)
    assert users_of(project) == {0, 1, 2}
    assert read_raw(project).height == pl.read_csv(project.root / "ratings.csv").height


def test_an_unchanged_asset_is_not_loaded_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    partitioned(project, io_manager=IO_MANAGERS[1])
    assert materialize(project, instance, PARTITIONS[DAILY]).success
    # Loading one of the assets now fails.
    stored = [file for file in (project.root / "theirs").rglob("*") if file.is_file()]
    assert len(stored) == 3
    for file in stored:
        file.write_bytes(b"")
    assert materialize(project, instance, []).success


def test_a_partition_that_changed_is_read_again_and_a_missing_one_is_named(
    project: Project, instance: dg.DagsterInstance
) -> None:
    partitioned(project)
    first, _, last = PARTITIONS[DAILY]
    result = materialize(project, instance, [first, last])
    assert users_of(project) == {0, 2}
    assert result.success, why(result)
    log = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "1 of the partitions between were never materialized, such as 2026-01-02" in log
    assert materialize(project, instance, []).success
    assert users_of(project) == {0, 2}
    assert materialize(project, instance, ["2026-01-02"]).success
    assert users_of(project) == {0, 1, 2}


def test_partitions_are_read_where_their_materializations_say(
    project: Project, instance: dg.DagsterInstance
) -> None:
    body = f"""{A_THIRD.replace("return", "frame =")}
    path = f"{project.root}/out/{{context.partition_key}}.parquet"
    if number == 1:
        frame = frame.with_columns(extra=pl.lit("x"))
    frame.write_parquet(path, mkdir=True)
    return dg.MaterializeResult(metadata={{"dagster/uri": path}})"""
    partitioned(project, body=body)
    result = materialize(project, instance, PARTITIONS[DAILY])
    assert result.success, why(result)
    assert users_of(project) == {0, 1, 2}
    assert read_raw(project).filter(pl.col("extra").is_null())["userId"].unique().len() == 40


def test_partitions_may_be_text_of_any_form(project: Project, instance: dg.DagsterInstance) -> None:
    body = f"""{A_THIRD.replace("return", "frame =")}
    path = pathlib.Path(f"{project.root}/out/{{context.partition_key}}.csv")
    path.parent.mkdir(exist_ok=True)
    frame = frame.with_columns(note=pl.lit("Größe; 1,5"))
    text = frame.write_csv(separator=";")
    path.write_text(text, encoding=["utf-8", "cp1252", "utf-16"][number])
    return dg.MaterializeResult(metadata={{"dagster/uri": str(path)}})"""
    partitioned(project, body=f"import pathlib\n    {body}")
    result = materialize(project, instance, PARTITIONS[DAILY])
    assert result.success, why(result)
    assert read_raw(project).height == 60 * 30
    assert {*read_raw(project)["note"]} == {"Größe; 1,5"}


TEXT_PARTITIONS = """
    path = pathlib.Path(f"{root}/out/{{context.partition_key}}.csv")
    path.parent.mkdir(exist_ok=True)
    frame = frame.with_columns(pl.format("Kö{{}}", "userId").alias("userId"))
    text = frame.write_csv(separator={delimiter!r}, include_header={header!r})
    path.write_bytes(({before!r} + text).encode({encoding!r}))
    return dg.MaterializeResult(metadata={{"dagster/uri": str(path)}})"""
BY_POSITION = dict(zip(COLUMNS, range(1, 5), strict=False))


@pytest.mark.parametrize(
    ("settings", "before", "delimiter"),
    [
        ({"header": 3}, "Orders; by shop\n\n", ","),
        ({"header": 3, "encoding": "cp1252"}, "Orders; by shop\n\n", ","),
        ({"delimiter": "|"}, "", "|"),
        ({}, "sep=;\n", ";"),
        ({"header": 2}, "sep=;\n", ";"),
        ({"header": "none", "columns": BY_POSITION}, "", ","),
        ({"columns": BY_POSITION}, "", ","),
        ({"header": 2, "columns": BY_POSITION}, "Orders; by shop\n\n", ","),
    ],
    ids=str,
)
def test_partitions_have_the_declared_form(
    project: Project,
    instance: dg.DagsterInstance,
    settings: dict[str, Any],
    before: str,
    delimiter: str,
) -> None:
    has_header = "columns" not in settings
    body = A_THIRD.replace("return", "frame =") + TEXT_PARTITIONS.format(
        root=project.root,
        delimiter=delimiter,
        header=has_header,
        before=before,
        encoding=settings.get("encoding", "utf-8"),
    )
    partitioned(project, body=f"import pathlib\n    {body}")
    attributes = declaration("shop", "asset://sales/orders")
    attributes["ratings"] |= settings
    project.declare(attributes)
    ratings = pl.read_csv(project.root / "ratings.csv").filter(pl.col("rating") >= 3.5)
    days = PARTITIONS[DAILY]
    # The next night has one partition more.
    for new, number in ((days[:2], 2), (days[2:], 3)):
        result = materialize(project, instance, new, "interactions")
        assert result.success, why(result)
        expected = ratings.filter(pl.col("userId") % 3 < number)
        made = interactions(project, "shop")
        assert made.height == expected.height
        assert {*made["USER_ID"]} == {f"Kö{user}" for user in expected["userId"]}


def test_a_query_reads_partitions_with_the_declared_header(
    project: Project, instance: dg.DagsterInstance
) -> None:
    body = A_THIRD.replace("return", "frame =") + TEXT_PARTITIONS.format(
        root=project.root,
        delimiter=",",
        header=True,
        before="Orders; by shop\n\n",
        encoding="utf-8",
    )
    partitioned(project, body=f"import pathlib\n    {body}")
    attributes = declaration("shop", "asset://sales/orders")
    attributes["ratings"] |= {"query": "SELECT * FROM source", "header": 3}
    project.declare(attributes)
    result = materialize(project, instance, PARTITIONS[DAILY])
    assert result.success, why(result)
    assert users_of(project) == {0, 1, 2}


def test_partitions_are_read_again_when_their_declared_form_changes(
    project: Project, instance: dg.DagsterInstance
) -> None:
    body = A_THIRD.replace("return", "frame =") + TEXT_PARTITIONS.format(
        root=project.root, delimiter=",", header=True, before="", encoding="utf-8"
    )
    partitioned(project, body=f"import pathlib\n    {body}")
    attributes = declaration("shop", "asset://sales/orders")
    attributes["ratings"]["delimiter"] = "|"
    project.declare(attributes)
    result = materialize(project, instance, PARTITIONS[DAILY])
    assert not result.success
    attributes["ratings"]["delimiter"] = ","
    project.declare(attributes)
    result = materialize(project, instance, [])
    assert result.success, why(result)
    assert users_of(project) == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "fix"),
    [
        ({"header": 3}, "omit header"),
        ({"columns": BY_POSITION}, "give these, of userId, movieId, rating, timestamp"),
    ],
)
def test_a_form_of_text_is_refused_for_partitions_that_are_tables(
    project: Project, instance: dg.DagsterInstance, settings: dict[str, Any], fix: str
) -> None:
    partitioned(project)
    attributes = declaration("shop", "asset://sales/orders")
    attributes["ratings"] |= settings
    project.declare(attributes)
    message = why(materialize(project, instance, PARTITIONS[DAILY]))
    assert message.startswith("asset://sales/orders: partition 2026-01-01: ")
    assert message.endswith(f"is a table, whose columns have names: {fix}")


def test_a_day_without_a_file_is_no_table_although_a_header_is_declared(
    project: Project, instance: dg.DagsterInstance
) -> None:
    body = A_THIRD.replace("return", "frame =") + TEXT_PARTITIONS.format(
        root=project.root,
        delimiter=",",
        header=True,
        before="Orders; by shop\n\n",
        encoding="utf-8",
    )
    body = body.rpartition("\n")[0] + "\n    return str(path) if number else None"
    partitioned(project, body=f"import pathlib\n    {body}", io_manager=IO_MANAGERS[1])
    attributes = declaration("shop", "asset://sales/orders")
    attributes["ratings"]["header"] = 3
    project.declare(attributes)
    result = materialize(project, instance, PARTITIONS[DAILY], "interactions")
    assert result.success, why(result)
    made = interactions(project, "shop")
    assert {int(user.removeprefix("Kö")) % 3 for user in made["USER_ID"]} == {1, 2}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 7", "partition 2026-01-01: its IO manager cannot load it as a table"),
        ("return None", "none of its partitions has a table"),
    ],
)
def test_partitions_that_cannot_be_joined_are_refused_by_name(
    project: Project,
    instance: dg.DagsterInstance,
    body: str,
    reason: str,
) -> None:
    theirs = IO_MANAGERS[1]
    partitioned(project, body=body, io_manager=theirs)
    message = why(materialize(project, instance, PARTITIONS[DAILY]))
    assert message.startswith("asset://sales/orders: ")
    assert reason in message


def test_without_a_partition_nothing_is_made(
    project: Project, instance: dg.DagsterInstance
) -> None:
    partitioned(project)
    message = why(materialize(project, instance, []))
    assert message.startswith("asset://sales/orders was never materialized")


def test_a_run_of_objects_finds_it_too(project: Project) -> None:
    """`dg.materialize` has no code location."""
    partitioned(project)
    with definitions(project) as defs, dg.DagsterInstance.ephemeral() as instance:
        assets = [*defs.resolve_asset_graph().assets_defs]
        wanted = [dg.AssetKey(["shop", "raw_ratings"])]
        for key in PARTITIONS[DAILY]:
            dg.materialize(assets, selection=[ORDERS], partition_key=key, instance=instance)
        result = dg.materialize(assets, selection=wanted, instance=instance)
    assert result.success
    assert read_raw(project).height == 60 * 30


def test_it_waits_for_the_assets_that_write_its_source(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """The ratings are in a file that another asset writes; `deps` names that asset."""
    write_ratings(project.root / "all.csv")
    attributes = declaration("shop", "ratings.csv")
    attributes["ratings"]["deps"] = ["sales/orders"]
    project.declare(attributes)
    (project.package / "defs" / "orders.py").write_text(
        "import dagster as dg, shutil\n\n@dg.asset(key_prefix='sales')\ndef orders() -> None:\n"
        f"    shutil.copy({str(project.root / 'all.csv')!r}, {str(project.root / 'ratings.csv')!r})"
    )
    result = run(project, instance)
    assert result.success, why(result)
    with definitions(project) as defs:
        raw = defs.resolve_asset_graph().get(dg.AssetKey(["shop", "raw_ratings"]))
    assert raw.parent_keys == {ORDERS}


@pytest.mark.parametrize("source", ["sql+env://SHOP", "s3://shop/orders.csv", "orders.csv"])
@pytest.mark.parametrize("block", ["ratings", "items", "users", "batch_users"])
def test_every_source_can_have_deps(project: Project, block: str, source: str) -> None:
    settings: dict[str, Any] = {"source": source, "deps": ["orders", "sales/orders"]}
    if source.startswith("sql"):
        settings["query"] = "SELECT * FROM orders"
    if block == "items":
        settings["columns"] = {"item": "sku", "categories": {"KIND": "kind"}}
    if block == "users":
        settings["columns"] = {"user": "customer", "categories": {"COUNTRY": "country"}}
    project.declare(declaration("shop", "ratings.csv", **{block: settings}))
    asset = "batch_users" if block == "batch_users" else f"raw_{block}"
    with definitions(project) as defs:
        parents = defs.resolve_asset_graph().get(dg.AssetKey(["shop", asset])).parent_keys
    theirs = {key.to_user_string() for key in parents if key.path[0] != "shop"}
    assert theirs == {"orders", "sales/orders"}
