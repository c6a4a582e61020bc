"""The imported data of a dataset: all rows, and interactions ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from batchrec_dagster.local_personalize.catalog.catalog import Catalog
from batchrec_dagster.local_personalize.catalog.home import Home
from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.learning import store
from batchrec_dagster.local_personalize.learning.interactions import Interactions, ModelFileError
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

FULL, INCREMENTAL = "FULL", "INCREMENTAL"  # values of importMode

# The files in the folder of an import.
ROWS, INTERACTIONS = "rows.parquet", "interactions"

_COLUMNS = (USER_ID, ITEM_ID, TIMESTAMP)
_ATTEMPTS = 10

T = TypeVar("T")


def save_interactions(folder: Path) -> None:
    """Write the interactions of an import as arrays, next to its rows."""
    store.save(Interactions.from_frame(_rows([folder], _COLUMNS)), folder / INTERACTIONS)


def read_rows(
    catalog: Catalog,
    home: Home,
    dataset_arn: str,
    columns: Sequence[str],
    take: Callable[[pl.LazyFrame], T],
    *,
    full_imports_only: bool = False,
) -> T:
    """The result of `take` on these columns of all current rows of the dataset.

    Names match in any case; the frame has them as given. `take` is called again if an import
    replaces the files in the meantime. `full_imports_only` leaves out imports with importMode
    INCREMENTAL. Raises JobFailedError if the dataset is gone, empty or damaged.
    """

    def read(folders: list[Path]) -> T:
        return take(_rows(folders, columns))

    return _read(catalog, home, dataset_arn, read, full_imports_only)


def read_interactions(
    catalog: Catalog, home: Home, dataset_arn: str, *, full_imports_only: bool = False
) -> Interactions:
    """All current interactions of the dataset; memory-mapped if there is a single import.

    Raises as `read_rows` does.
    """

    def read(folders: list[Path]) -> Interactions:
        return store.concat([_interactions(folder) for folder in folders])

    return _read(catalog, home, dataset_arn, read, full_imports_only)


def _read(
    catalog: Catalog,
    home: Home,
    dataset_arn: str,
    read: Callable[[list[Path]], T],
    full_imports_only: bool,
) -> T:
    folders = _folders(catalog, home, dataset_arn, full_imports_only)
    for _ in range(_ATTEMPTS):
        try:
            return read(folders)
        except (FileNotFoundError, ModelFileError, pl.exceptions.ComputeError) as error:
            before, folders = folders, _folders(catalog, home, dataset_arn, full_imports_only)
            if folders == before:  # no FULL import has replaced the files
                raise JobFailedError(
                    f"Create failed. The data of {dataset_arn} cannot be read: {error}. Import it"
                    " again."
                ) from error
    raise JobFailedError(f"Create failed. {dataset_arn} changes faster than it can be read.")


def _folders(catalog: Catalog, home: Home, dataset_arn: str, full_imports_only: bool) -> list[Path]:
    """The folders of the imports that make up the dataset."""
    with catalog.reading() as records:
        dataset = records.find(dataset_arn)
    if dataset is None:
        raise JobFailedError(f"{dataset_arn} no longer exists.")
    files = dataset.state["files"]
    if not files:
        raise JobFailedError(f"Create failed. {dataset_arn} has no data: import some first.")
    if full_imports_only:
        files = [file for file in files if file["mode"] == FULL]
    if not files:
        raise JobFailedError(
            f"Create failed. {dataset_arn} has no data imported with importMode {FULL},"
            " which user segments need."
        )
    return [home.root / file["path"] for file in files]


def find_dataset(catalog: Catalog, group_arn: str, dataset_type: str) -> str:
    """The ARN of the group's dataset of that type. Raises JobFailedError if it has none."""
    with catalog.reading() as records:
        datasets = records.children("Dataset", group_arn)
    of_type = [d.arn for d in datasets if d.body["datasetType"] == dataset_type]
    if not of_type:
        raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")
    return of_type[0]


def group_reader(
    catalog: Catalog, home: Home, group_arn: str, *, full_imports_only: bool = False
) -> Callable[[str, Sequence[str]], pl.DataFrame]:
    """A function (dataset type, columns) -> those columns of the group's dataset.

    It raises JobFailedError if there is no such dataset, column or data.
    """

    def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        dataset = find_dataset(catalog, group_arn, dataset_type)
        try:
            return read_rows(
                catalog,
                home,
                dataset,
                columns,
                pl.LazyFrame.collect,
                full_imports_only=full_imports_only,
            )
        except pl.exceptions.ColumnNotFoundError:
            raise JobFailedError(
                f"The {dataset_type} data lacks one of the columns {', '.join(columns)}: import it"
                " again with a schema that has them."
            ) from None

    return read


def _interactions(folder: Path) -> Interactions:
    if folder.is_file():  # imported by an earlier version: rows only
        return Interactions.from_frame(_rows([folder], _COLUMNS))
    return store.load(folder / INTERACTIONS)


def _rows(folders: Sequence[Path], columns: Sequence[str]) -> pl.LazyFrame:
    # Earlier versions imported into a single file.
    files = [folder if folder.is_file() else folder / ROWS for folder in folders]
    # Files imported before a schema update lack the columns that it added.
    frames = [pl.scan_parquet(str(file), glob=False) for file in files]
    rows = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    actual = {name.upper(): name for name in rows.collect_schema().names()}
    return rows.select(
        pl.col(actual.get(column.upper(), column)).alias(column) for column in columns
    )
