"""What was imported into a dataset, in the home: all rows, and the numbers to learn from."""

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
from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID

FULL, INCREMENTAL = "FULL", "INCREMENTAL"  # what importMode may be

# What is in the folder of an import.
ROWS, NUMBERS = "rows.parquet", "interactions"

_NUMBERED = (USER_ID, ITEM_ID, TIMESTAMP)
_ATTEMPTS = 10

T = TypeVar("T")


def keep_numbers(folder: Path) -> None:
    """Write the numbers of the interactions that were imported into the folder beside the rows."""
    store.save(Interactions.from_frame(_rows([folder], _NUMBERED)), folder / NUMBERS)


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
    imported with importMode INCREMENTAL. Raises JobFailedError when the dataset is gone, has no
    data or damaged ones.
    """

    def read(folders: list[Path]) -> T:
        return take(_rows(folders, columns))

    return _read(catalog, home, dataset_arn, read, full_imports_only)


def take_interactions(
    catalog: Catalog, home: Home, dataset_arn: str, *, full_imports_only: bool = False
) -> Interactions:
    """All interactions of the dataset, as it is now; of a single import they stay on the disk.

    Raises as `take_rows` does.
    """

    def read(folders: list[Path]) -> Interactions:
        return store.joined([_interactions(folder) for folder in folders])

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
        except (FileNotFoundError, ModelFileError) as error:
            before, folders = folders, _folders(catalog, home, dataset_arn, full_imports_only)
            if folders == before:  # no FULL import has replaced the files meanwhile
                raise JobFailedError(
                    f"Create failed. The data of {dataset_arn} cannot be read: {error}. Import them"
                    " again."
                ) from error
    raise JobFailedError(f"Create failed. {dataset_arn} changes faster than it can be read.")


def _folders(catalog: Catalog, home: Home, dataset_arn: str, full_imports_only: bool) -> list[Path]:
    """Where the imports are whose data the dataset has now."""
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
    return [home.root / file["path"] for file in files]


def dataset_in(catalog: Catalog, group_arn: str, dataset_type: str) -> str:
    """The ARN of the group's dataset of that type. Raises JobFailedError when it has none."""
    with catalog.reading() as records:
        datasets = records.children("Dataset", group_arn)
    of_type = [d.arn for d in datasets if d.body["datasetType"] == dataset_type]
    if not of_type:
        raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")
    return of_type[0]


def group_reader(
    catalog: Catalog, home: Home, group_arn: str, *, full_imports_only: bool = False
) -> Callable[[str, Sequence[str]], pl.DataFrame]:
    """A function that reads these columns of the group's dataset of that type into memory.

    It raises JobFailedError when there is no such dataset, column or data.
    """

    def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
        dataset = dataset_in(catalog, group_arn, dataset_type)
        try:
            return take_rows(
                catalog,
                home,
                dataset,
                columns,
                pl.LazyFrame.collect,
                full_imports_only=full_imports_only,
            )
        except pl.exceptions.ColumnNotFoundError:
            missing = f"The {dataset_type} data lack one of {', '.join(columns)}: import them again"
            raise JobFailedError(f"{missing} with a schema that has it.") from None

    return read


def _interactions(folder: Path) -> Interactions:
    if folder.is_file():  # an import of an earlier version: the rows alone
        return Interactions.from_frame(_rows([folder], _NUMBERED))
    return store.load(folder / NUMBERS)


def _rows(folders: Sequence[Path], columns: Sequence[str]) -> pl.LazyFrame:
    # An import of an earlier version is the file itself.
    files = [folder if folder.is_file() else folder / ROWS for folder in folders]
    # Files that were imported before a schema update lack the columns that it has added.
    frames = [pl.scan_parquet(str(file), glob=False) for file in files]
    rows = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    spelt = {name.upper(): name for name in rows.collect_schema().names()}
    return rows.select(
        pl.col(spelt.get(column.upper(), column)).alias(column) for column in columns
    )
