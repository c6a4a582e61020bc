"""`source: asset://KEY`: another asset of the project is where the ratings come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from pydantic import ValidationError

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.support import (
    COLUMNS,
    Project,
    declaration,
    definitions,
    interactions,
    metadata,
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
    """The upstream asset and what is prepared of it."""
    selection = [
        ORDERS,
        *(dg.AssetKey(["shop", asset]) for asset in ("raw_ratings", "interactions")),
    ]
    with definitions(project) as defs, in_location(defs):
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=selection, raise_on_error=False
        )


@contextmanager
def in_location(defs: dg.Definitions) -> Iterator[None]:
    """As in a run that Dagster launches: the job knows its code location."""
    location = defs.get_repository_def()
    with patch.object(InMemoryJob, "get_repository_definition", lambda _: location):
        yield


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
    assert metadata(result, "raw_ratings")["source"] == "asset://sales/orders"
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
    assert metadata(result, "raw_ratings")["source"] == "out/orders.parquet"


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


def test_an_unchanged_asset_is_not_loaded_again(
    project: Project, instance: dg.DagsterInstance
) -> None:
    upstream(project, "pl.DataFrame", "return frame")
    assert run(project, instance).success
    raw = dg.AssetKey(["shop", "raw_ratings"])
    with definitions(project) as defs, in_location(defs):
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance, asset_selection=[raw]
        )
    assert metadata(result, "raw_ratings")["outcome"] == "unchanged: not copied again"


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


def test_what_is_no_table_is_refused(project: Project, instance: dg.DagsterInstance) -> None:
    upstream(project, "int", "return 7")
    assert "asset://sales/orders: its IO manager cannot load it as a table" in why(
        run(project, instance)
    )


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        ({"source": "asset://"}, "write an asset's key"),
        ({"source": "asset://sales/orders", "copy": False}, "omit copy: false"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_loaded(
    ratings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        Pipeline.model_validate({"name": "shop", "ratings": {**ratings, "columns": COLUMNS}})
