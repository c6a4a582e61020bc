"""IO managers of the CSV files that Personalize reads: interactions, items and users; and what all
IO managers of a deployment do when they fail.

The IO managers in `storage/io_managers.py` do not depend on Personalize's formats.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import dagster as dg
import polars as pl

from batchrec_dagster.dagster_internals.expected_failure import failures_without_stack
from batchrec_dagster.personalize.file_formats import scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.storage.io_managers import CsvIOManager, StorageIOManager

Manager = TypeVar("Manager", bound=StorageIOManager)


def hide_failure_stacks(manager: type[Manager]) -> type[Manager]:
    """The IO manager whose failures Dagster records as their messages, without Python's stack."""

    class ManagerWithoutStacks(manager):  # type: ignore[valid-type, misc]
        def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
            with failures_without_stack():
                super().handle_output(context, obj)

        def load_input(self, context: dg.InputContext) -> Any:
            with failures_without_stack():
                return super().load_input(context)

    ManagerWithoutStacks.__name__ = ManagerWithoutStacks.__qualname__ = manager.__name__
    return ManagerWithoutStacks


class AttributesCsvIOManager(CsvIOManager):
    """Personalize's CSV of items or of users.

    Ids are text. Another column holds numbers if all of its cells are numbers.
    """

    id_name: ClassVar[str]

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        types = {self.id_name: pl.String}
        return pl.scan_csv(source, schema_overrides=types, infer_schema_length=None, glob=False)


class ItemsCsvIOManager(AttributesCsvIOManager):
    """Personalize's items CSV."""

    id_name = ITEM_ID


class UsersCsvIOManager(AttributesCsvIOManager):
    """Personalize's users CSV."""

    id_name = USER_ID


class InteractionsIOManager(CsvIOManager):
    """Personalize's interactions CSV, in which ids are text, even if they look like numbers."""

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        return scan_interactions(source)
