"""Sources whose rows a run computes or finds: those of a query, a database, a table or an asset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import (
    File,
    FileDescription,
    ListedFile,
    SourceContext,
)
from batchrec_dagster.storage.durable import read_pieces, temporary_folder

PIECE_BYTES = 8 * 1024 * 1024
ASSET = "asset://"
ONLY_A_RUN = "an asset is read by a run, as the source of ratings or items: name a file here"


@dataclass(frozen=True)
class ResultFile(File):
    """A file of rows that a run computes, such as those of a query."""

    version: str
    """What changes when the rows may have changed."""

    filename: str

    write: Callable[[Path, SourceContext], None] = field(repr=False, compare=False)
    """Writes the rows to a path, as Parquet, or raises FileError."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        return [ListedFile(self, self.filename, self.version)]

    def describe(self, context: SourceContext) -> FileDescription:
        return FileDescription(None, self.version)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        with temporary_folder() as folder:
            path = folder / "result.parquet"
            self.write(path, context)
            yield from read_pieces(path, PIECE_BYTES)


@dataclass(frozen=True)
class AssetRows(File):
    """The rows of an asset, before a run has found out where they are."""

    is_delta: bool = False
    """Whether the asset's metadata name the folder of a Delta table."""

    @classmethod
    def parse(cls, text: str, *, is_delta: bool = False) -> Self:
        """Raises FileError."""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text.removeprefix(ASSET)):
            raise FileError("write an asset's key, its parts separated by /: asset://shop/orders")
        return cls(text, is_delta)

    @property
    def key(self) -> list[str]:
        """The parts of the asset's key."""
        return self.text.removeprefix(ASSET).split("/")

    def describe(self, context: SourceContext) -> FileDescription:
        raise FileError(ONLY_A_RUN)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        raise FileError(ONLY_A_RUN)
