"""`sample://hetrec` or `sample://hetrec/FILE`: a generated file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import File, FileDescription, SourceContext

RATINGS_FILE = "user_ratedmovies-timestamps.dat"
SAMPLE_FILES = (RATINGS_FILE, "movies.dat")


@dataclass(frozen=True)
class GeneratedFile(File):
    """A file of the generated data set; by default that of the ratings."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The file that the text names. Raises FileError."""
        name, _, file = text.removeprefix("sample://").partition("/")
        if name != "hetrec":
            raise FileError("the only sample is sample://hetrec")
        if file and file not in SAMPLE_FILES:
            raise FileError(f"sample://hetrec has the files {', '.join(SAMPLE_FILES)}")
        return cls(text)

    @property
    def name(self) -> str:
        return self.text.removeprefix("sample://hetrec").removeprefix("/") or RATINGS_FILE

    def describe(self, context: SourceContext) -> FileDescription:
        return FileDescription(None, context.sample.FINGERPRINT)

    def chunks(self, context: SourceContext) -> Iterator[bytes]:
        yield context.sample.FILES[self.name]()
