"""IO managers: how inputs get what a pipeline's steps have stored, and how own tables are stored.

Their failures are recorded as their messages alone.
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

from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.pipeline.expected_failure import errors_as_failures
from batchrec_dagster.pipeline.storage_resource import StorageResource
from batchrec_dagster.pipeline.table_kinds import convert_table, to_polars
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import parse

# The asset metadata with the storage key of its value.
STORAGE_KEY = "batchrec/storage_key"
# Any record.
_OBJECT = TypeAdapter(dict[str, Any])


class StoredIOManager(dg.ConfigurableIOManager):
    """Reads what a step has stored itself, as one object. It writes nothing."""

    storage: StorageResource

    @property
    def opened(self) -> Storage:
        """The storage itself."""
        return self.storage.opened

    @abstractmethod
    def load(self, uri: str, context: dg.InputContext, target_type: object) -> Any:
        """The value of an object as the `target_type` type."""

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
        with errors_as_failures():
            return self.load_key(key, context, target_type, is_optional=is_optional)

    def storage_key(self, context: dg.OutputContext) -> str:
        """The key of an asset's object in the storage."""
        return str((context.definition_metadata or {})[STORAGE_KEY])

    def load_key(
        self, key: str, context: dg.InputContext, target_type: object, *, is_optional: bool
    ) -> Any:
        """The value of the object with this key in the storage as the `target_type` type.

        is_optional: whether it is None if the object is missing. Otherwise that is an error.
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
    """Tables. An input's type says which kind; its metadata `columns` names those that are read."""

    @abstractmethod
    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        """The table in an opened file, which can be closed before the rows are read."""

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
    """Writes frames as Parquet too, each partition of an asset as a file of its own."""

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
        with errors_as_failures():
            self.opened.store.put(uri, content.getvalue())
        context.add_output_metadata({"dagster/uri": uri})

    def load_input(self, context: dg.InputContext) -> Any:
        """The table; of several partitions the rows of all of them, in their order."""
        if context.upstream_output is None or not context.has_asset_partitions:
            return super().load_input(context)
        key = self.storage_key(context.upstream_output)
        metadata = context.definition_metadata or {}
        is_optional = bool(metadata.get("allow_missing_partitions"))
        with errors_as_failures():
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
    """Personalize's CSV of items or of users.

    Ids are text. Another column holds numbers if all of its cells are numbers.
    """

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        ids = {USER_ID: pl.String, ITEM_ID: pl.String}
        return pl.scan_csv(file, schema_overrides=ids, infer_schema_length=None)


class InteractionsIOManager(TableIOManager):
    """Personalize's interactions CSV, in which ids are text, even if they look like numbers."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return scan_interactions(file)


class UsersIOManager(TableIOManager):
    """The users of a batch inference job as JSON Lines."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return pl.scan_ndjson(file)


class PublishedTableIOManager(TableIOManager):
    """One whole edition of published lists."""

    def scan(self, file: BinaryIO) -> pl.LazyFrame:
        return pl.scan_parquet(file)

    def open_table(self, uri: str) -> pl.LazyFrame:
        # Reading needs no record.
        _, frame = Editions(self.opened.store, uri, record_uri="").read()
        return frame


class RecordIOManager(StoredIOManager):
    """Records as JSON objects. An input's type says which record it is; a dict gets the object."""

    def load(self, uri: str, context: dg.InputContext, target_type: object) -> Any:
        content = self.opened.store.get(uri)
        if isinstance(target_type, type) and issubclass(target_type, BaseModel):
            return parse(content, target_type)
        if target_type in (dict, Any) or get_origin(target_type) is dict:
            return _OBJECT.validate_json(content)
        raise dg.DagsterInvariantViolationError(f"a record is a dict, not {target_type}")


def _name_partition(key: str, partition: str) -> str:
    """The storage key of a partition of the asset whose own one is `key`."""
    return f"{key.removesuffix('.parquet')}/{quote(partition, safe='')}.parquet"


def _unwrap_optional(target_type: object) -> tuple[object, bool]:
    """The type in an Optional, and whether it is one."""
    types = [kind for kind in get_args(target_type) if kind is not type(None)]
    is_optional = len(types) == 1 and type(None) in get_args(target_type)
    return (types[0], True) if is_optional else (target_type, False)


def _select_columns(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> pl.LazyFrame:
    """These columns of the table. Raises UserError if it lacks one.

    where: what messages call the table's file.
    """
    existing = frame.collect_schema().names()
    missing = [column for column in columns if column not in existing]
    if missing:
        raise UserError(f"{where} has no column {', '.join(missing)}; it has {', '.join(existing)}")
    return frame.select(columns)
