"""IO managers, which load the stored results of a pipeline's steps and store a team's own tables.

If an IO manager fails for a known reason, and a retry would not help, Dagster records the message
without a Python stack.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO, get_args, get_origin
from urllib.parse import quote

import dagster as dg
import polars as pl
from pydantic import BaseModel, TypeAdapter

from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.pipeline.declared import STORAGE_KEY
from batchrec_dagster.pipeline.expected_failure import errors_as_failures
from batchrec_dagster.pipeline.storage_resource import StorageResource
from batchrec_dagster.pipeline.table_kinds import convert_table, to_polars
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import parse

# The validator of a record of any kind.
_OBJECT = TypeAdapter(dict[str, Any])


class StoredIOManager(dg.ConfigurableIOManager):
    """An IO manager that reads objects that steps stored themselves. It writes nothing."""

    storage: StorageResource

    @property
    def opened(self) -> Storage:
        """The storage that the resource opens."""
        return self.storage.opened

    @abstractmethod
    def load(self, uri: str, context: dg.InputContext, target_type: object) -> Any:
        """Return the value of an object as the type `target_type`."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        raise dg.DagsterInvariantViolationError(
            f"{context.asset_key.to_user_string()}: this IO manager only reads what a pipeline"
            " stores. Give an asset of your own another IO manager"
        )

    def load_input(self, context: dg.InputContext) -> Any:
        if context.upstream_output is None:
            raise dg.DagsterInvariantViolationError("there is no asset to load")
        key = self.storage_key(context.upstream_output)
        target_type, is_optional = _unwrap_optional(context.dagster_type.typing_type)
        with errors_as_failures(_find_retry_policy(context)):
            return self.load_key(key, context, target_type, is_optional=is_optional)

    def storage_key(self, context: dg.OutputContext) -> str:
        """Return the key of an asset's object in the storage."""
        return str((context.definition_metadata or {})[STORAGE_KEY])

    def load_key(
        self, key: str, context: dg.InputContext, target_type: object, *, is_optional: bool
    ) -> Any:
        """Return the value of the object with this storage key as the type `target_type`.

        is_optional: whether a missing object gives None. Otherwise a missing object is an error.
        """
        uri = self.opened.uri(key)
        where = self.opened.where(uri)
        try:
            return self.load(uri, context, target_type)
        except ObjectNotFoundError as error:
            if is_optional:
                return None
            raise ObjectNotFoundError(
                f"there is no {where}: materialize the asset that stores it"
            ) from error
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise DamagedObjectError(where, error, MAKE_AGAIN) from error


class TableIOManager(StoredIOManager):
    """An IO manager that reads tables.

    The input's type chooses the kind of table. The input's metadata `columns` chooses the columns.
    """

    @abstractmethod
    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        """Return the table in an opened file.

        The caller may close the file before it reads the table's rows.
        """

    def open_table(self, uri: str) -> pl.LazyFrame:
        with self.opened.store.open(uri) as file:
            return self.scan(file)

    def load(self, uri: str, context: dg.InputContext, target_type: object) -> Any:
        frame = self.open_table(uri)
        columns = (context.definition_metadata or {}).get("columns")
        if columns is not None:
            frame = _select_columns(frame, columns, self.opened.where(uri))
        return convert_table(frame, target_type)


class ParquetIOManager(TableIOManager):
    """An IO manager for frames in Parquet, with a separate file for each partition of an asset."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return pl.scan_parquet(file)

    def storage_key(self, context: dg.OutputContext) -> str:
        key = (context.definition_metadata or {}).get(STORAGE_KEY)
        return str(key or f"{'/'.join(context.asset_key.path)}.parquet")

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        key = self.storage_key(context)
        if context.has_asset_partitions:
            if len(context.asset_partition_keys) != 1:
                raise dg.DagsterInvariantViolationError(
                    f"{context.asset_key.to_user_string()} returned one value for"
                    f" {len(context.asset_partition_keys)} partitions, which are stored in a file"
                    " each: launch the backfill with a run for each partition"
                    " (dg.BackfillPolicy.multi_run())"
                )
            key = _name_partition(key, context.partition_key)
        content = io.BytesIO()
        to_polars(obj).write_parquet(content)
        uri = self.opened.uri(key)
        with errors_as_failures(_find_retry_policy(context)):
            self.opened.store.put(uri, content.getvalue())
        context.add_output_metadata({"dagster/uri": uri})

    def load_input(self, context: dg.InputContext) -> Any:
        """Return the table. Several partitions are put together in the partitions' order."""
        if context.upstream_output is None or not context.has_asset_partitions:
            return super().load_input(context)
        key = self.storage_key(context.upstream_output)
        metadata = context.definition_metadata or {}
        is_optional = bool(metadata.get("allow_missing_partitions"))
        with errors_as_failures(_find_retry_policy(context)):
            partitions = [
                self.load_key(
                    _name_partition(key, partition), context, pl.LazyFrame, is_optional=is_optional
                )
                for partition in context.asset_partition_keys
            ]
            frames = [frame for frame in partitions if frame is not None]
            if not frames:
                raise ObjectNotFoundError(
                    f"no partition of {key} is stored: materialize one of the asset"
                )
        table = pl.concat(frames, how="diagonal_relaxed")
        return convert_table(table, _unwrap_optional(context.dagster_type.typing_type)[0])


class AttributesIOManager(TableIOManager):
    """An IO manager that reads Personalize's CSV of items or of users.

    Ids are text. Any other column holds numbers if all of its cells are numbers.
    """

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        ids = {USER_ID: pl.String, ITEM_ID: pl.String}
        return pl.scan_csv(file, schema_overrides=ids, infer_schema_length=None)


class InteractionsIOManager(TableIOManager):
    """An IO manager that reads Personalize's CSV of interactions. Ids are always text."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return scan_interactions(file)


class UsersIOManager(TableIOManager):
    """An IO manager that reads the users of a batch inference job from JSON Lines."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return pl.scan_ndjson(file)


class PublishedTableIOManager(TableIOManager):
    """An IO manager that reads the live edition of published lists."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return pl.scan_parquet(file)

    def open_table(self, uri: str) -> pl.LazyFrame:
        # Reading an edition needs no record, so the record's URI can be empty.
        _, frame = Editions(self.opened.store, uri, record_uri="").read()
        return frame


class RecordIOManager(StoredIOManager):
    """An IO manager that reads records from JSON objects.

    The input's type chooses the type of the record. An input of type dict gets the JSON object.
    """

    def load(self, uri: str, context: dg.InputContext, target_type: object) -> Any:
        content = self.opened.store.get(uri)
        if isinstance(target_type, type) and issubclass(target_type, BaseModel):
            return parse(content, target_type)
        if target_type in (dict, Any) or get_origin(target_type) is dict:
            return _OBJECT.validate_json(content)
        raise dg.DagsterInvariantViolationError(f"a record is a dict, not {target_type}")


def _find_retry_policy(context: dg.InputContext | dg.OutputContext) -> dg.RetryPolicy | None:
    """Return the policy by which Dagster retries the step; None if no step runs."""
    try:
        return context.step_context.op_retry_policy
    except dg.DagsterInvariantViolationError:
        return None


def _name_partition(key: str, partition: str) -> str:
    """Return the storage key of a partition.

    key: the storage key of the asset.
    """
    return f"{key.removesuffix('.parquet')}/{quote(partition, safe='')}.parquet"


def _unwrap_optional(target_type: object) -> tuple[object, bool]:
    """Return the type without an Optional around it, and whether there was an Optional."""
    types = [kind for kind in get_args(target_type) if kind is not type(None)]
    is_optional = len(types) == 1 and type(None) in get_args(target_type)
    return (types[0], True) if is_optional else (target_type, False)


def _select_columns(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> pl.LazyFrame:
    """Return these columns of the table. Raises UserError if the table lacks any of the columns.

    where: the name of the table's file in messages.
    """
    existing = frame.collect_schema().names()
    missing = [column for column in columns if column not in existing]
    if missing:
        raise UserError(f"{where} has no column {', '.join(missing)}; it has {', '.join(existing)}")
    return frame.select(columns)
