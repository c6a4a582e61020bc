"""What every asset of a pipeline has in common, said once."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import dagster as dg
import polars as pl

from batchrec_dagster.io_managers import STORAGE_KEY
from batchrec_dagster.pipeline.settings import Pipeline

# What an asset's tag says it is, in the order of the way from ratings to results.
RAW, PREPARED, MODEL, RESULT = "raw", "prepared", "model", "result"

# The metadata of a sink's definition that says where it writes, and by which setting.
WRITES_TO = "batchrec/writes_to"


class OwnArguments(TypedDict):
    """Arguments of `@dg.asset` for what is kept elsewhere than in the storage."""

    key_prefix: str
    group_name: str
    owners: list[str]
    description: str
    kinds: set[str]
    tags: dict[str, str]
    code_version: str


class AssetArguments(OwnArguments):
    """Arguments of `@dg.asset`."""

    io_manager_key: str
    metadata: dict[str, Any]


def described_alone(
    pipeline: Pipeline, *, description: str, kinds: set[str], code_version: str, stage: str = RESULT
) -> OwnArguments:
    """As `described`, for what is kept elsewhere."""
    return {
        "key_prefix": pipeline.name,
        "group_name": pipeline.name,
        "owners": pipeline.owners,
        "description": description,
        "kinds": kinds,
        "tags": {"stage": stage},
        "code_version": code_version,
    }


def described(
    pipeline: Pipeline,
    *,
    description: str,
    kinds: set[str],
    storage_key: str,
    code_version: str,
    io_manager: str,
    stage: str = RESULT,
) -> AssetArguments:
    """The arguments of `@dg.asset` that follow from the declaration.

    The code version has to change whenever the same input would give another output, so that
    Dagster calls the asset stale: it carries a fingerprint of the settings that the asset reads.
    """
    alone = described_alone(
        pipeline, description=description, kinds=kinds, code_version=code_version, stage=stage
    )
    return {**alone, "io_manager_key": io_manager, "metadata": {STORAGE_KEY: storage_key}}


def column_schema(
    columns: Mapping[str, tuple[str, str]], present: Sequence[str] | None = None
) -> dg.TableSchema:
    """`{name: (type, description)}` as Dagster's column schema, for the columns present."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=columns[name][0], description=columns[name][1])
            for name in (columns if present is None else present)
        ]
    )


def column_lineage(
    pipeline: Pipeline,
    columns: Mapping[str, Sequence[tuple[str, str]]],
    present: Sequence[str] | None = None,
) -> dg.TableColumnLineage:
    """`{column: [(asset, its column), ...]}` as Dagster's column lineage, for the columns present:
    which columns of other assets each one is made of."""
    return dg.TableColumnLineage(
        deps_by_column={
            name: [
                dg.TableColumnDep(dg.AssetKey([pipeline.name, asset]), column)
                for asset, column in columns[name]
            ]
            for name in (columns if present is None else present)
        }
    )


def sample(frame: pl.DataFrame) -> dg.MetadataValue[Any]:
    """A few rows as a table in the UI."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in frame.iter_rows(named=True)],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(name=name, type=str(dtype).lower())
                for name, dtype in frame.schema.items()
            ]
        ),
    )
