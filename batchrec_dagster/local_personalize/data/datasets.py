"""The imported data of a dataset: all rows, and interactions ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

from ..catalog.catalog import Catalog
from ..catalog.home import Home
from ..errors import JobFailedError
from ..learning import store
from ..learning.interactions import Interactions, ModelFileError

FULL, INCREMENTAL = "FULL", "INCREMENTAL"  # values of importMode

# The files in the folder of an import.
ROWS, INTERACTIONS = "rows.parquet", "interactions"

STORED_TYPES: dict[str, type[pl.DataType]] = {  # by the types of a schema
    "string": pl.String,
    "int": pl.Int32,
    "long": pl.Int64,
    "float": pl.Float32,
    "double": pl.Float64,
    "boolean": pl.Boolean,
}

_COLUMNS = (USER_ID, ITEM_ID, TIMESTAMP)
_ATTEMPTS = 10

T = TypeVar("T")


def save_interactions(folder: Path) -> None:
    """Write the interactions of an import as arrays, next to its rows."""
    store.save(Interactions.from_frame(_scan_rows([folder], _COLUMNS)), folder / INTERACTIONS)


@dataclass(frozen=True)
class DatasetReader:
    """Reads the current rows of datasets.

    `full_imports_only` leaves out imports with importMode INCREMENTAL. An import may replace the
    files while they are read: then they are read again. Each method raises JobFailedError if the
    dataset is gone, empty or damaged.
    """

    catalog: Catalog
    home: Home
    full_imports_only: bool = False

    def read_rows(
        self, dataset_arn: str, columns: Sequence[str], take: Callable[[pl.LazyFrame], T]
    ) -> T:
        """The result of `take` on these columns of all rows.

        Names match in any case; the frame has them as given. `take` may be called more than once.
        """
        return self._read(dataset_arn, lambda folders: take(_scan_rows(folders, columns)))

    def read_interactions(self, dataset_arn: str) -> Interactions:
        """All interactions; memory-mapped if there is a single import."""
        return self._read(
            dataset_arn, lambda folders: store.concat(list(map(_load_interactions, folders)))
        )

    def make_group_reader(self, group_arn: str) -> Callable[[str, Sequence[str]], pl.DataFrame]:
        """A function (dataset type, columns) -> those columns of the group's dataset.

        It also raises JobFailedError if there is no such dataset or column.
        """

        def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
            try:
                return self.read_rows(
                    self.find_dataset(group_arn, dataset_type), columns, pl.LazyFrame.collect
                )
            except pl.exceptions.ColumnNotFoundError:
                raise JobFailedError(
                    f"The {dataset_type} data lacks one of the columns {', '.join(columns)}: import"
                    " it again with a schema that has them."
                ) from None

        return read

    def find_dataset(self, group_arn: str, dataset_type: str) -> str:
        with self.catalog.open_for_reading() as transaction:
            datasets = transaction.list_resources("Dataset", parent=group_arn)
        of_type = [d.arn for d in datasets if d.body["datasetType"] == dataset_type]
        if not of_type:
            raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")
        return of_type[0]

    def _read(self, dataset_arn: str, read: Callable[[list[Path]], T]) -> T:
        folders = self._folders(dataset_arn)
        for _ in range(_ATTEMPTS):
            try:
                return read(folders)
            except (FileNotFoundError, ModelFileError, pl.exceptions.ComputeError) as error:
                before, folders = folders, self._folders(dataset_arn)
                if folders == before:  # no FULL import has replaced the files
                    raise JobFailedError(
                        f"Create failed. The data of {dataset_arn} cannot be read: {error}. Import"
                        " it again (force_import)."
                    ) from error
        raise JobFailedError(f"Create failed. {dataset_arn} changes faster than it can be read.")

    def _folders(self, dataset_arn: str) -> list[Path]:
        """The folders of the imports that make up the dataset."""
        with self.catalog.open_for_reading() as transaction:
            files = transaction.require(dataset_arn).state["files"]
        if not files:
            raise JobFailedError(f"Create failed. {dataset_arn} has no data: import some first.")
        if self.full_imports_only:
            files = [file for file in files if file["mode"] == FULL]
        if not files:
            raise JobFailedError(
                f"Create failed. {dataset_arn} has no data imported with importMode {FULL},"
                " which user segments need."
            )
        return [self.home.root / file["path"] for file in files]


def _load_interactions(folder: Path) -> Interactions:
    if folder.is_file():  # imported by an earlier version: rows only
        return Interactions.from_frame(_scan_rows([folder], _COLUMNS))
    return store.load(folder / INTERACTIONS)


def _scan_rows(folders: Sequence[Path], columns: Sequence[str]) -> pl.LazyFrame:
    # Earlier versions imported into a single file.
    files = [folder if folder.is_file() else folder / ROWS for folder in folders]
    # Files imported before a schema update lack the columns that it added.
    frames = [pl.scan_parquet(str(file), glob=False) for file in files]
    rows = pl.concat(frames, how="diagonal") if len(frames) > 1 else frames[0]
    actual = {name.upper(): name for name in rows.collect_schema().names()}
    return rows.select(
        pl.col(actual.get(column.upper(), column)).alias(column) for column in columns
    )
