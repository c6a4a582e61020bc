"""The stored rows of datasets. Each import is a Parquet file in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.storage.durable import compute_sha256, read_pieces

from .catalogue import Catalogue, Status
from .engine.data import Interactions
from .errors import JobFailedError
from .home import Home, remove_path

# Values of importMode.
FULL, INCREMENTAL = "FULL", "INCREMENTAL"

ROWS = "rows.parquet"
"""The name of the file in the folder of an import."""

STORED_TYPES: dict[str, type[pl.DataType]] = {
    "string": pl.String,
    "int": pl.Int32,
    "long": pl.Int64,
    "float": pl.Float32,
    "double": pl.Float64,
    "boolean": pl.Boolean,
}
"""The types of stored columns, by the type of the field in the schema."""

T = TypeVar("T")


class ReadColumns(Protocol):
    """A function that reads a group's dataset of a type, as `DatasetReader.read_rows` does."""

    def __call__(
        self, dataset_type: str, columns: Sequence[str], take: Callable[[pl.LazyFrame], T], /
    ) -> T: ...


def describe_import(home: Home, path: str, mode: str) -> dict[str, Any]:
    """Return the entry for an import in its dataset's `files`.

    path: the import's folder, relative to the home.
    mode: the importMode.
    """
    return {"path": path, "mode": mode, "digest": _compute_digest(home.root / path)}


def scan_import(home: Home, entry: Mapping[str, Any]) -> pl.LazyFrame:
    """Return the rows of an import as a lazy frame.

    entry: the entry that `describe_import` returned.

    Raises ComputeError if the file is missing, or has changed since it was written. The check is
    needed because Polars does not notice every flipped bit.
    """
    path = home.root / entry["path"] / ROWS
    if not is_intact(home, entry):
        raise pl.exceptions.ComputeError(f"{path} is missing or damaged")
    return pl.scan_parquet(path, glob=False)


def is_intact(home: Home, entry: Mapping[str, Any]) -> bool:
    """Return whether the file of an import exists, and has not changed since it was written."""
    try:
        return _compute_digest(home.root / entry["path"]) == str(entry["digest"])
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class DatasetReader:
    """A reader of the current rows of datasets.

    If an import replaces the files during a read, the reader reads the new files. Each method
    raises JobFailedError if the dataset is gone, empty or damaged. Other errors, such as a full
    disk, are raised unchanged.
    """

    catalogue: Catalogue
    home: Home
    full_imports_only: bool
    """Whether the reader leaves out imports with importMode INCREMENTAL."""

    def read_rows(
        self, dataset_arn: str, columns: Sequence[str], take: Callable[[pl.LazyFrame], T]
    ) -> T:
        """Return the result of `take` on the given columns of all rows.

        columns: the names of the columns. Their case does not matter. The frame has the names as
            given here.
        take: computes the result. It may be called more than once.
        """
        imports = self._list_imports(dataset_arn)
        while True:
            try:
                return take(self._scan(imports, columns))
            except (FileNotFoundError, pl.exceptions.ComputeError) as error:
                current_imports = self._list_imports(dataset_arn)
                if current_imports == imports:
                    if all(is_intact(self.home, entry) for entry in imports):
                        raise
                    self._give_up(dataset_arn)
                    raise JobFailedError(
                        f"Create failed. The data of {dataset_arn} cannot be read: {error}. They"
                        " were given up: import them again (a pipeline's next run does)."
                    ) from error
                imports = current_imports

    def read_interactions(self, dataset_arn: str) -> Interactions:
        """Return all interactions."""
        return self.read_rows(dataset_arn, (USER_ID, ITEM_ID, TIMESTAMP), Interactions.from_frame)

    def make_group_reader(self, group_arn: str) -> ReadColumns:
        """Return a function that reads columns of the group's dataset of a type."""

        def read(dataset_type: str, columns: Sequence[str], take: Callable[[pl.LazyFrame], T]) -> T:
            return self.read_rows(self.find_dataset(group_arn, dataset_type), columns, take)

        return read

    def find_dataset(self, group_arn: str, dataset_type: str) -> str:
        """Return the ARN of the group's dataset of this type."""
        with self.catalogue.open_for_reading() as transaction:
            dataset = transaction.find_dataset(group_arn, dataset_type)
        if dataset is None:
            raise JobFailedError(f"{group_arn} has no dataset of type {dataset_type}.")
        return dataset.arn

    def _list_imports(self, dataset_arn: str) -> list[dict[str, Any]]:
        """Return the entries of the imports that make up the dataset."""
        with self.catalogue.open_for_reading() as transaction:
            imports: list[dict[str, Any]] = transaction.require(dataset_arn).state["files"]
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
        return imports

    def _scan(self, imports: Sequence[dict[str, Any]], columns: Sequence[str]) -> pl.LazyFrame:
        """Return the columns of all imports as a lazy frame. Raises the errors of `scan_import`."""
        rows = pl.concat(scan_import(self.home, entry) for entry in imports)
        stored_names = {name.upper(): name for name in rows.collect_schema().names()}
        return rows.select(
            pl.col(stored_names.get(column.upper(), column)).alias(column) for column in columns
        )

    def _give_up(self, dataset_arn: str) -> None:
        """Delete a dataset's damaged data, and mark its imports as failed.

        The next run then imports the data again. Unlike on AWS, that costs nothing here.
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


def _compute_digest(folder: Path) -> str:
    """Return the hash of the rows of an import."""
    return compute_sha256(read_pieces(folder / ROWS))
