"""The source for a generated file: `sample://hetrec` or `sample://hetrec/FILE`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.source import ListedFile, RowSource, SourceContext

RATINGS_FILE = "user_ratedmovies-timestamps.dat"
SAMPLE_FILES = (RATINGS_FILE, "movies.dat")


@dataclass(frozen=True)
class GeneratedFile(RowSource):
    """A file of the generated data set; by default the ratings."""

    name: str
    """The name of the file."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the file that the text names.

        Raises FileError if there is no such sample or file.
        """
        name, _, file = text.removeprefix("sample://").partition("/")
        if name != "hetrec":
            raise FileError("the only sample is sample://hetrec")
        if file and file not in SAMPLE_FILES:
            raise FileError(f"sample://hetrec has the files {', '.join(SAMPLE_FILES)}")
        return cls(text, file or RATINGS_FILE)

    def files(self, context: SourceContext) -> list[ListedFile]:
        generate = context.sample.FILES[self.name]
        fingerprint = context.sample.FINGERPRINT
        return [ListedFile(self.text, self.name, fingerprint, lambda: iter([generate()]))]
