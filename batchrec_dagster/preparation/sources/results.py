"""A source whose rows are computed, not copied: they become one Parquet file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchrec_dagster.preparation.sources.source import File, FoundFile, Look, SourceContext
from batchrec_dagster.storage.scratch import temporary_folder

CHUNK = 8 * 1024 * 1024


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
        del context
        return Look(None, self.version)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        with temporary_folder() as folder:
            path = folder / "result.parquet"
            self.write(path, context)
            with path.open("rb") as file:
                yield from iter(lambda: file.read(CHUNK), b"")
