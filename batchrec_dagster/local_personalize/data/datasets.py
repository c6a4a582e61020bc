"""The imported data of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID

from ..catalogue import Catalogue, Status
from ..engine.data import Interactions
from ..errors import JobFailedError
from ..home import Home, remove_path

# Values of importMode.
FULL, INCREMENTAL = "FULL", "INCREMENTAL"

ROWS = "rows.parquet"  # the name of the file in the folder of an import

STORED_TYPES: dict[str, type[pl.DataType]] = {
    "string": pl.String,
    "int": pl.Int32,
    "long": pl.Int64,
    "float": pl.Float32,
    "double": pl.Float64,
    "boolean": pl.Boolean,
}
"""The types of stored columns, by the types of fields in a schema."""

_INTERACTION_COLUMNS = (USER_ID, ITEM_ID, TIMESTAMP)

_MAX_ATTEMPTS = 10
"""How often a dataset is read when imports keep replacing its files."""

T = TypeVar("T")


@dataclass(frozen=True)
class DatasetReader:
    """Reads the current rows of datasets.

    If an import replaces the files while they are read, they are read again. Each method
    raises JobFailedError if the dataset is gone, empty or damaged.
    """

    catalogue: Catalogue
    home: Home
    full_imports_only: bool = False
    """Whether imports with importMode INCREMENTAL are left out."""

    def read_rows(
        self, dataset_arn: str, columns: Sequence[str], take: Callable[[pl.LazyFrame], T]
    ) -> T:
        """Return the result of `take` on these columns of all rows.

        columns: their names, which match in any case. The frame has them as they are given here.
        take: computes the result. It may be called more than once.
        """
        return self._read(dataset_arn, lambda folders: take(_scan_rows(folders, columns)))

    def read_interactions(self, dataset_arn: str) -> Interactions:
        """Return all interactions."""
        return self.read_rows(dataset_arn, _INTERACTION_COLUMNS, Interactions.from_frame)

    def make_group_reader(self, group_arn: str) -> Callable[[str, Sequence[str]], pl.DataFrame]:
        """Return a function that reads columns of the group's dataset of a type.

        It also raises JobFailedError if there is no such dataset or column.
        """

        def read(dataset_type: str, columns: Sequence[str]) -> pl.DataFrame:
            dataset_arn = self.find_dataset(group_arn, dataset_type)
            try:
                return self.read_rows(dataset_arn, columns, pl.LazyFrame.collect)
            except pl.exceptions.ColumnNotFoundError:
                raise JobFailedError(
                    f"The {dataset_type} data lacks one of the columns {', '.join(columns)}: import"
                    " it again with a schema that has them."
                ) from None

        return read

    def find_dataset(self, group_arn: str, dataset_type: str) -> str:
        """Return the ARN of the group's dataset of this type."""
        with self.catalogue.open_for_reading() as transaction:
            datasets = transaction.list_resources("Dataset", parent=group_arn)
        for dataset in datasets:
            if dataset.body["datasetType"] == dataset_type:
                return dataset.arn
        raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")

    def _read(self, dataset_arn: str, read: Callable[[list[Path]], T]) -> T:
        """Return what `read` makes of the folders of the dataset's imports."""
        folders = self._list_folders(dataset_arn)
        for _ in range(_MAX_ATTEMPTS):
            try:
                return read(folders)
            except (FileNotFoundError, pl.exceptions.ComputeError) as error:
                current_folders = self._list_folders(dataset_arn)
                if current_folders == folders:
                    # No FULL import has replaced the files, so that they are missing or damaged.
                    self._give_up(dataset_arn)
                    raise JobFailedError(
                        f"Create failed. The data of {dataset_arn} cannot be read: {error}. They"
                        " were given up: import them again (a pipeline's next run does)."
                    ) from error
                folders = current_folders
        raise JobFailedError(f"Create failed. {dataset_arn} changes faster than it can be read.")

    def _give_up(self, dataset_arn: str) -> None:
        """Delete damaged data, with the imports that brought them, for others to take their place.

        It costs nothing here to import them again.
        """
        with self.catalogue.open_for_writing() as transaction:
            dataset = transaction.require(dataset_arn)
            transaction.save(replace(dataset, state={**dataset.state, "files": []}))
            for job in transaction.list_resources("DatasetImportJob", parent=dataset_arn):
                if job.status == Status.ACTIVE:
                    reason = "What it imported was damaged, and was given up."
                    transaction.save(job.end_job(Status.CREATE_FAILED, failureReason=reason))
        for path in dataset.files:
            remove_path(self.home.root / path)

    def _list_folders(self, dataset_arn: str) -> list[Path]:
        """Return the folders of the imports that make up the dataset."""
        with self.catalogue.open_for_reading() as transaction:
            imports = transaction.require(dataset_arn).state["files"]
        if not imports:
            raise JobFailedError(
                f"Create failed. {dataset_arn} has no data: import some first (a pipeline's next"
                " run does)."
            )
        if self.full_imports_only:
            imports = [entry for entry in imports if entry["mode"] == FULL]
        if not imports:
            raise JobFailedError(
                f"Create failed. {dataset_arn} has no data imported with importMode {FULL},"
                " which user segments need."
            )
        return [self.home.root / entry["path"] for entry in imports]


def _scan_rows(folders: Sequence[Path], columns: Sequence[str]) -> pl.LazyFrame:
    """Return these columns of the rows of all imports, lazily. Names match in any case."""
    rows = pl.concat(pl.scan_parquet(str(folder / ROWS), glob=False) for folder in folders)
    stored_names = {name.upper(): name for name in rows.collect_schema().names()}
    return rows.select(
        pl.col(stored_names.get(column.upper(), column)).alias(column) for column in columns
    )
