"""IO managers: how each kind of value becomes an object in the storage, and is read again.

A value is a table, a record or a page. Their failures are recorded as their messages alone.
"""

from __future__ import annotations

import glob
import io
import json
import uuid
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args, get_origin
from urllib.parse import quote

import dagster as dg
import polars as pl
from pydantic import BaseModel, RootModel

from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.pipeline.expected_failure import failures_without_stack
from batchrec_dagster.pipeline.storage_resource import StorageResource
from batchrec_dagster.pipeline.table_kinds import convert_table, is_table_type, to_polars
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.layout import MAKE_AGAIN
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import parse

# The asset metadata with the storage key of its value.
STORAGE_KEY = "batchrec/storage_key"


@contextmanager
def _errors_as_failures() -> Iterator[None]:
    """A block whose errors for people become failures without Python's stack."""
    with failures_without_stack():
        try:
            yield
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from error


class StorageIOManager(dg.ConfigurableIOManager):
    """Writes a value as one object, atomically, and reads it again."""

    suffix: ClassVar[str]
    storage: StorageResource

    @abstractmethod
    def encode(self, value: Any) -> bytes | Path:
        """The object's content, or a file that holds it."""

    @abstractmethod
    def decode(self, data: bytes, target_type: object) -> Any:
        """The value as the `target_type` type."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        uri = self.storage.opened.uri(self._key(context))
        with _errors_as_failures():
            self.storage.opened.store.put(uri, self.encode(obj))
        context.add_output_metadata({"dagster/uri": uri})

    def load_input(self, context: dg.InputContext) -> Any:
        if context.upstream_output is None:
            raise dg.DagsterInvariantViolationError("there is no asset to load")
        key = self._unpartitioned_key(context.upstream_output)
        target_type, optional = _unwrap_optional(context.dagster_type.typing_type)
        metadata = context.definition_metadata or {}
        columns = metadata.get("columns")
        with _errors_as_failures():
            if not context.has_asset_partitions:
                return self._load(key, target_type, columns, optional=optional)
            keys = {
                partition: self._partition_key(key, partition)
                for partition in context.asset_partition_keys
            }
            if len(keys) == 1:
                (key,) = keys.values()
                return self._load(key, target_type, columns, optional=optional)
            return self.load_partitions(
                keys, target_type, columns, optional=metadata.get("allow_missing_partitions", False)
            )

    def load_partitions(
        self,
        keys: Mapping[str, str],
        target_type: object,
        columns: Sequence[str] | None,
        *,
        optional: bool,
    ) -> Any:
        """The value of each of several partitions, by its partition, as Dagster's own IO managers.

        keys: the storage key of each partition.
        optional: whether partitions that are missing are left out.
        """
        types = get_args(target_type) if get_origin(target_type) in (dict, Mapping) else ()
        value_type = types[1] if len(types) == 2 else Any
        values = {
            partition: self._load(key, value_type, columns, optional=optional)
            for partition, key in keys.items()
        }
        return {partition: value for partition, value in values.items() if value is not None}

    def _load(
        self, key: str, target_type: object, columns: Sequence[str] | None, *, optional: bool
    ) -> Any:
        """The value of an object as the `target_type` type.

        columns: those of a table that are read; None for all.
        optional: whether it is None if the object is missing. Otherwise that is an error.
        """
        storage = self.storage.opened
        uri = storage.uri(key)
        where = storage.where(uri)
        try:
            if columns is None:
                return self.load(uri, target_type)
            frame = _select_columns(self.load(uri, pl.LazyFrame), columns, where)
            return (
                frame
                if target_type is pl.LazyFrame
                else convert_table(frame.collect(), target_type)
            )
        except ObjectNotFoundError as error:
            if optional:
                return None
            raise ObjectNotFoundError(
                f"there is no {where}: materialize the asset that stores it"
            ) from error
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise DamagedObjectError(where, error, MAKE_AGAIN) from error

    def load(self, uri: str, target_type: object) -> Any:
        """The value of the object as the `target_type` type."""
        return self.decode(self.storage.opened.store.get(uri), target_type)

    def file(self, uri: str) -> Path:
        """The object on this machine: itself, or a copy that lives as long as this manager."""
        path = self.storage.opened.store.local_path(uri)
        if path is None or not path.exists():
            path = self._copies / f"{uuid.uuid4().hex}{self.suffix}"
            self.storage.opened.store.download(uri, path)
        return path

    @cached_property
    def _copies(self) -> Path:
        with ExitStack() as stack:
            folder = stack.enter_context(temporary_folder())
            weakref.finalize(self, stack.pop_all().close)
        return folder

    def _key(self, context: dg.OutputContext) -> str:
        """The storage key of an output: of the asset, or of one partition of it."""
        key = self._unpartitioned_key(context)
        if not context.has_asset_partitions:
            return key
        partitions = context.asset_partition_keys
        if len(partitions) != 1:
            raise dg.DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} returned one value for {len(partitions)}"
                " partitions, which are stored in a file each: launch the backfill with a run for"
                " each partition (dg.BackfillPolicy.multi_run())"
            )
        return self._partition_key(key, partitions[0])

    def _unpartitioned_key(self, context: dg.OutputContext) -> str:
        key = (context.definition_metadata or {}).get(STORAGE_KEY)
        return str(key or "/".join(context.asset_key.path) + self.suffix)

    def _partition_key(self, key: str, partition: str) -> str:
        """The storage key of a partition of the asset whose own one is `key`."""
        return f"{key.removesuffix(self.suffix)}/{quote(partition, safe='')}{self.suffix}"


class TableIOManager(StorageIOManager):
    """Tables, from a frame or a file that already holds it; a LazyFrame reads from a file."""

    @abstractmethod
    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        """The table in a file, or in its content."""

    @abstractmethod
    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        """Write the table in the file's format."""

    def encode(self, value: Any) -> bytes | Path:
        if isinstance(value, Path):
            return value
        buffer = io.BytesIO()
        self.write(to_polars(value), buffer)
        return buffer.getvalue()

    def decode(self, data: bytes, target_type: object) -> Any:
        return convert_table(self.scan(io.BytesIO(data)).collect(), target_type)

    def load(self, uri: str, target_type: object) -> Any:
        if target_type is not pl.LazyFrame:
            return super().load(uri, target_type)
        return self.scan(self.file(uri))

    def load_partitions(
        self,
        keys: Mapping[str, str],
        target_type: object,
        columns: Sequence[str] | None,
        *,
        optional: bool,
    ) -> Any:
        """The rows of all partitions in one table, for an input whose type is one."""
        if not is_table_type(target_type):
            return super().load_partitions(keys, target_type, columns, optional=optional)
        frames = super().load_partitions(keys, dict[str, pl.LazyFrame], columns, optional=optional)
        table = pl.concat(frames.values(), how="diagonal_relaxed")
        return table if target_type is pl.LazyFrame else convert_table(table.collect(), target_type)


class ParquetIOManager(TableIOManager):
    suffix = ".parquet"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_parquet(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        return pl.scan_parquet(source, glob=False)


class CsvIOManager(TableIOManager):
    suffix = ".csv"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_csv(buffer)


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


class UsersIOManager(TableIOManager):
    """The users of a batch inference job as JSON Lines."""

    suffix = ".json"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_ndjson(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        # Polars always reads brackets and stars in this path as a pattern.
        return pl.scan_ndjson(glob.escape(str(source)) if isinstance(source, Path) else source)


class _JsonObject(RootModel[dict[str, Any]]):
    """Any record."""


class RecordIOManager(StorageIOManager):
    """Records as JSON objects. An input's type says which record it is; a dict gets the object."""

    suffix = ".json"

    def encode(self, value: Any) -> bytes:
        if isinstance(value, BaseModel):
            return (value.model_dump_json(indent=2) + "\n").encode()
        return (json.dumps(value, indent=2) + "\n").encode()

    def decode(self, data: bytes, target_type: object) -> Any:
        if isinstance(target_type, type) and issubclass(target_type, BaseModel):
            return parse(data, target_type)
        if target_type in (dict, Any) or get_origin(target_type) is dict:
            return parse(data, _JsonObject).root
        raise dg.DagsterInvariantViolationError(f"a record is a dict, not {target_type}")


class HtmlIOManager(StorageIOManager):
    suffix = ".html"

    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes, target_type: object) -> Any:
        return data.decode()


class PublishedTableIOManager(ParquetIOManager):
    """Reads one whole edition of published lists. It writes none: the asset of the lists publishes
    them itself, under its lock, and hands over no value."""

    storage: StorageResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        raise dg.DagsterInvariantViolationError(
            f"{context.asset_key.to_user_string()}: this IO manager only reads lists that a"
            " pipeline published. Give an asset of your own another IO manager"
        )

    def load(self, uri: str, target_type: object) -> Any:
        # Reading needs no record.
        _, frame = Editions(self.storage.opened.store, uri, record_uri="").read()
        return frame if target_type is pl.LazyFrame else convert_table(frame.collect(), target_type)


def _unwrap_optional(target_type: object) -> tuple[object, bool]:
    """The type in an Optional, and whether it is one."""
    types = [kind for kind in get_args(target_type) if kind is not type(None)]
    optional = len(types) == 1 and type(None) in get_args(target_type)
    return (types[0], True) if optional else (target_type, False)


def _select_columns(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> pl.LazyFrame:
    existing = frame.collect_schema().names()
    missing = [column for column in columns if column not in existing]
    if missing:
        raise dg.Failure(
            f"{where} has no column {', '.join(missing)}; it has {', '.join(existing)}",
            allow_retries=False,
        )
    return frame.select(columns)
