"""Tables and records <-> storage.

An asset gets what it asks for by the type of its argument: a pandas DataFrame (also without a
type), a polars DataFrame or LazyFrame, or a pyarrow Table; for records, a dict. Where a value lies
stands in the asset's metadata; an asset without it gets a place by its key.
"""

from __future__ import annotations

import glob
import io
import json
import tempfile
import uuid
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa

from batchrec_dagster.formats.interactions import ITEM_ID, scan_interactions
from batchrec_dagster.object_store import StorageError
from batchrec_dagster.resources.storage import StorageResource

# The metadata of an asset's definition that says where its value lies under the storage root.
STORAGE_KEY = "batchrec/storage_key"


@dataclass(frozen=True)
class Stored:
    """A value that its asset has written to the storage itself, there where it belongs."""

    uri: str


class StorageIOManager(dg.ConfigurableIOManager):
    """Writes a value as one object, by an atomic put, and reads it again."""

    suffix: ClassVar[str]
    storage: StorageResource

    @abstractmethod
    def encode(self, value: Any) -> bytes | Path:
        """The object's content, or a file that holds it."""

    @abstractmethod
    def decode(self, data: bytes, wanted: object) -> Any:
        """The value, as the type that is asked for."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        uri = self.storage.uri(self._key(context))
        try:
            if not isinstance(obj, Stored):
                self.storage.store.put(uri, self.encode(obj))
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        context.add_output_metadata({"dagster/uri": uri})

    def load_input(self, context: dg.InputContext) -> Any:
        if context.upstream_output is None:
            raise dg.DagsterInvariantViolationError("there is no asset to load")
        uri = self.storage.uri(self._key(context.upstream_output))
        try:
            return self.load(uri, context.dagster_type.typing_type)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    def load(self, uri: str, wanted: object) -> Any:
        """The value of the object, as the type that is asked for."""
        return self.decode(self.storage.store.get(uri), wanted)

    def file(self, uri: str) -> Path:
        """The object on this machine: itself, or a copy that is there as long as this is."""
        path = self.storage.store.local_path(uri)
        if path is None or not path.exists():
            path = Path(self._copies.name) / f"{uuid.uuid4().hex}{self.suffix}"
            self.storage.store.download(uri, path)
        return path

    @cached_property
    def _copies(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    def _key(self, context: dg.OutputContext) -> str:
        key = (context.definition_metadata or {}).get(STORAGE_KEY)
        return str(key or "/".join(context.asset_key.path) + self.suffix)


class TableIOManager(StorageIOManager):
    """Tables: a frame, or a file that holds it already; a LazyFrame reads from a file."""

    @abstractmethod
    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        """The table of a file, or of its content."""

    @abstractmethod
    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        """The file's content of a table."""

    def encode(self, value: Any) -> bytes | Path:
        if isinstance(value, Path):
            return value
        buffer = io.BytesIO()
        self.write(_polars(value), buffer)
        return buffer.getvalue()

    def decode(self, data: bytes, wanted: object) -> Any:
        return as_asked(self.scan(io.BytesIO(data)).collect(), wanted)

    def load(self, uri: str, wanted: object) -> Any:
        if wanted is not pl.LazyFrame:
            return super().load(uri, wanted)
        return self.scan(self.file(uri))


class ParquetIOManager(TableIOManager):
    """Tables as Parquet."""

    suffix = ".parquet"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_parquet(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        return pl.scan_parquet(source, glob=False)


class InteractionsCsvIOManager(TableIOManager):
    """Personalize's interactions CSV: ids are text, whatever they look like."""

    suffix = ".csv"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_csv(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        return scan_interactions(source)


class ItemsCsvIOManager(TableIOManager):
    """Personalize's items CSV: ids are text, other columns are numbers where all cells are."""

    suffix = ".csv"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_csv(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        types = {ITEM_ID: pl.String}
        return pl.scan_csv(source, schema_overrides=types, infer_schema_length=None, glob=False)


class JsonLinesIOManager(TableIOManager):
    """Tables as JSON Lines, an object a row."""

    suffix = ".json"

    def write(self, frame: pl.DataFrame, buffer: io.BytesIO) -> None:
        frame.write_ndjson(buffer)

    def scan(self, source: Path | io.BytesIO) -> pl.LazyFrame:
        # Polars takes brackets and stars in a path for a pattern here, and cannot be told not to.
        return pl.scan_ndjson(glob.escape(str(source)) if isinstance(source, Path) else source)


class JsonRecordIOManager(StorageIOManager):
    """A record, such as the ARNs that a step made, as a JSON object."""

    suffix = ".json"

    def encode(self, value: Any) -> bytes:
        return (json.dumps(value, indent=2) + "\n").encode()

    def decode(self, data: bytes, wanted: object) -> Any:
        if wanted not in (dict, Any) and getattr(wanted, "__origin__", None) is not dict:
            raise dg.DagsterInvariantViolationError(f"a record is a dict, not {wanted}")
        return json.loads(data)


class HtmlIOManager(StorageIOManager):
    """Pages for people, as HTML."""

    suffix = ".html"

    def encode(self, value: Any) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes, wanted: object) -> Any:
        return data.decode()


def _polars(table: object) -> pl.DataFrame:
    match table:
        case pl.DataFrame():
            return table
        case pl.LazyFrame():
            return table.collect(engine="streaming")
        case pd.DataFrame():
            return pl.from_pandas(table)
        case pa.Table():
            return pl.DataFrame(table)
    raise dg.DagsterInvariantViolationError(
        f"cannot store a {type(table).__name__}: return a pandas DataFrame, a polars frame or a"
        " pyarrow Table"
    )


def as_asked(frame: pl.DataFrame, wanted: object) -> Any:
    """The table as the type that is asked for; pandas where none is."""
    if wanted is pl.DataFrame:
        return frame
    if wanted is pl.LazyFrame:
        return frame.lazy()
    if wanted is pa.Table:
        return frame.to_arrow()
    if wanted in (pd.DataFrame, Any, type(None)):
        return frame.to_pandas()
    raise dg.DagsterInvariantViolationError(
        f"cannot load a table as {wanted}: ask for a pandas DataFrame, a polars DataFrame or"
        " LazyFrame, or a pyarrow Table"
    )
