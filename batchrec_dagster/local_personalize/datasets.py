"""The rows that were imported into a dataset, read back from the home."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import polars as pl

from batchrec_dagster.local_personalize.catalog import Catalog
from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.home import Home

FULL, INCREMENTAL = "FULL", "INCREMENTAL"  # what importMode may be

_ATTEMPTS = 10

T = TypeVar("T")


def take_rows(
    catalog: Catalog,
    home: Home,
    dataset_arn: str,
    columns: Sequence[str],
    take: Callable[[pl.LazyFrame], T],
    *,
    full_imports_only: bool = False,
) -> T:
    """What `take` makes of these columns of all rows of the dataset, as it is now.

    Names are taken in any case; the columns are called as they were asked for. `take` is asked
    again when an import replaces the files meanwhile. `full_imports_only` leaves out what was
    imported with importMode INCREMENTAL. Raises JobFailedError when the dataset is gone or has no
    data.
    """
    for _ in range(_ATTEMPTS):
        with catalog.reading() as records:
            dataset = records.find(dataset_arn)
        if dataset is None:
            raise JobFailedError(f"{dataset_arn} does not exist any more.")
        files = dataset.state["files"]
        if not files:
            raise JobFailedError(f"Create failed. {dataset_arn} has no data: import some first.")
        if full_imports_only:
            files = [file for file in files if file["mode"] == FULL]
        if not files:
            raise JobFailedError(
                f"Create failed. {dataset_arn} has no data of an import with importMode {FULL}:"
                " user segments are made of such data only."
            )
        try:
            return take(_rows([home.root / file["path"] for file in files], columns))
        except FileNotFoundError:
            continue  # a FULL import has replaced the files since the catalog was read
    raise JobFailedError(f"Create failed. {dataset_arn} changes faster than it can be read.")


def take_group_rows(
    catalog: Catalog,
    home: Home,
    group_arn: str,
    dataset_type: str,
    columns: Sequence[str],
    take: Callable[[pl.LazyFrame], T],
    *,
    full_imports_only: bool = False,
) -> T:
    """The same of the group's dataset of that type.

    Raises JobFailedError when there is no such dataset, column or data.
    """
    with catalog.reading() as records:
        datasets = records.children("Dataset", group_arn)
    of_type = [d for d in datasets if d.body["datasetType"] == dataset_type]
    if not of_type:
        raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")
    try:
        return take_rows(
            catalog, home, of_type[0].arn, columns, take, full_imports_only=full_imports_only
        )
    except pl.exceptions.ColumnNotFoundError:
        missing = f"The {dataset_type} data lack one of {', '.join(columns)}: import them again"
        raise JobFailedError(f"{missing} with a schema that has it.") from None


def group_reader(
    catalog: Catalog, home: Home, group_arn: str, *, full_imports_only: bool = False
) -> Callable[[str, Sequence[str]], pl.DataFrame]:
    """A function that reads these columns of the group's dataset of that type into memory."""

    def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        return take_group_rows(
            catalog,
            home,
            group_arn,
            dataset_type,
            columns,
            pl.LazyFrame.collect,
            full_imports_only=full_imports_only,
        )

    return read


def _rows(files: Sequence[object], columns: Sequence[str]) -> pl.LazyFrame:
    # Files that were imported before a schema update lack the columns that it has added.
    frames = [pl.scan_parquet(str(file), glob=False) for file in files]
    rows = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    spelt = {name.upper(): name for name in rows.collect_schema().names()}
    return rows.select(
        pl.col(spelt.get(column.upper(), column)).alias(column) for column in columns
    )
