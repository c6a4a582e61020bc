"""The sources with rows that a run computes or finds: queries, databases, tables and assets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from batchrec_dagster.preparation.file_form import FileForm
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import (
    ListedFile,
    RowSource,
    SourceContext,
    make_filename,
    name_errors,
)
from batchrec_dagster.storage.durable import read_pieces, temporary_folder

PIECE_BYTES = 8 * 1024 * 1024
ASSET = "asset://"


@dataclass(frozen=True)
class ComputedRows(RowSource):
    """A Parquet file of rows that a run computes, such as the result of a query."""

    version: str
    """A text that changes when the rows may have changed."""

    write: Callable[[Path], None] = field(repr=False, compare=False)
    """A function that writes the rows to a path, as Parquet, or raises FileError."""

    filename: str = ""
    """The file's name in the storage; if empty, it is made from `text`."""

    def files(self, context: SourceContext) -> list[ListedFile]:
        filename = self.filename or f"{make_filename(self.text)}.parquet"
        return [ListedFile(self.text, filename, self.version, self._read)]

    def _read(self) -> Iterator[bytes]:
        with temporary_folder() as folder:
            path = folder / "result.parquet"
            self.write(path)
            yield from read_pieces(path, PIECE_BYTES)


@dataclass(frozen=True)
class AssetRows(RowSource):
    """The rows of an asset, before a run has found out where they are."""

    is_delta: bool = False
    """Whether the asset's metadata names the folder of a Delta table."""

    form: FileForm = field(default_factory=FileForm)
    """The declared form of text files."""

    has_names: bool = True
    """Whether no column is declared by its position."""

    @classmethod
    def parse(cls, text: str, *, is_delta: bool = False) -> Self:
        """Return the source for the asset with this key.

        Raises FileError if the text has no valid key.
        """
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text.removeprefix(ASSET)):
            raise FileError("write an asset's key, its parts separated by /: asset://shop/orders")
        return cls(text, is_delta)

    @property
    def key(self) -> list[str]:
        """The parts of the asset's key."""
        return self.text.removeprefix(ASSET).split("/")

    def files(self, context: SourceContext) -> list[ListedFile]:
        with name_errors(self.text):
            raise FileError(
                "an asset is read by a run, as the source of ratings or items: name a file here"
            )
