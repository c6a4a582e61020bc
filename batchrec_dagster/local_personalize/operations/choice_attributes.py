"""Reads what the Users and the Items dataset say of the tested users and of what they chose."""

from __future__ import annotations

import polars as pl

from batchrec_dagster.personalize import schemas

from ..errors import JobFailedError
from ..jobs.job import Job, logger
from ..learning.choice_attributes import (
    ChoiceAttributes,
    ColumnValues,
    choose_columns,
    index_values,
)
from ..learning.choices import HeldOutChoices
from ..learning.interactions import Ids
from .datasets import find_dataset, read_schema


def read_choice_attributes(job: Job, choices: HeldOutChoices) -> ChoiceAttributes | None:
    """Return the categories of the tested users, and of the items that they chose.

    None if the data cannot be read: a training does not fail for it.
    """
    try:
        return ChoiceAttributes(
            users=_index_columns(job, schemas.USERS, schemas.USER_ID, choices.user_ids),
            items=_index_columns(job, schemas.ITEMS, schemas.ITEM_ID, choices.item_ids),
        )
    except JobFailedError as error:
        logger.warning("%s has no quality by categories: %s", job.resource.arn, error)
        return None


def _index_columns(job: Job, dataset_type: str, id_column: str, ids: Ids) -> list[ColumnValues]:
    """Return the dataset's categories of these ids; none without a dataset with data.

    Raises JobFailedError if the data are gone or damaged.
    """
    with job.catalog.open_for_reading() as transaction:
        dataset = find_dataset(transaction, job.resource.body["datasetGroupArn"], dataset_type)
        if dataset is None or not dataset.state["files"]:
            return []
        fields = read_schema(transaction, dataset).fields
    names = [
        field.name
        for field in fields
        if field.type == "string" and not field.textual and field.name.upper() != id_column
    ]
    unique_ids = pl.Series(ids, dtype=pl.String).unique()

    def select_ids(rows: pl.LazyFrame) -> pl.DataFrame:
        has_id = pl.col(id_column).is_in(unique_ids.implode())
        return rows.filter(has_id).collect(engine="streaming")

    reader = job.make_reader()
    columns = []
    for name in choose_columns(names):
        try:
            table = reader.read_rows(dataset.arn, [id_column, name], select_ids)
        except pl.exceptions.ColumnNotFoundError:
            # The data were imported before the schema had this column.
            continue
        values = index_values(name, table, ids)
        if values is not None:
            columns.append(values)
    return columns
