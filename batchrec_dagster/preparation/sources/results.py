"""Sources whose rows a run computes: they become one Parquet file.

`asset://KEY` are the rows of another asset of the Dagster project.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from batchrec_dagster.preparation.sources.source import (
    File,
    FileError,
    FoundFile,
    Look,
    SourceContext,
)
from batchrec_dagster.storage.durable import pieces, temporary_folder

CHUNK = 8 * 1024 * 1024
ASSET = "asset://"
ONLY_A_RUN = "an asset is read by a run, as the source of ratings or items: name a file here"


@dataclass(frozen=True)
class ResultFile(File):
    """Rows that `write` puts into a Parquet file; `version` changes when they may have changed."""

    version: str

    @abstractmethod
    def write(self, path: Path, context: SourceContext) -> None:
        """Write the Parquet file. Raises FileError."""

    def found(self, filename: str) -> list[FoundFile]:
        """The one file that a source of it has."""
        return [FoundFile(self, filename, self.version)]

    def look(self, context: SourceContext) -> Look:
        return Look(None, self.version)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        with temporary_folder() as folder:
            path = folder / "result.parquet"
            self.write(path, context)
            yield from pieces(path, CHUNK)


@dataclass(frozen=True)
class AssetRows(File):
    """The rows of an asset, before a run has found out where they are."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises FileError."""
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text.removeprefix(ASSET)):
            raise FileError("write an asset's key, its parts separated by /: asset://shop/orders")
        return cls(text)

    @property
    def key(self) -> list[str]:
        """The parts of the asset's key."""
        return self.text.removeprefix(ASSET).split("/")

    def look(self, context: SourceContext) -> Look:
        raise FileError(ONLY_A_RUN)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        raise FileError(ONLY_A_RUN)
