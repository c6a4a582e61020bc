"""A project's folder, a bucket and a cache to bring sources to, and what is in the sources."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from batchrec_dagster.preparation.sources.errors import SourceError
from batchrec_dagster.preparation.sources.parsing import parse_file
from batchrec_dagster.preparation.sources.source import CopyResult, SourceContext
from batchrec_dagster.samples import generator
from batchrec_dagster.storage.object_store import ObjectStore

CONTENT = b"userId,movieId,rating,timestamp\n1,2,3.5,1162160236\n"
MONDAY = "Mon, 05 Jan 2009 10:00:00 GMT"
DESTINATION = "s3://lake/raw/ratings.csv"


@dataclass(frozen=True)
class Place:
    """A project's folder, a bucket `lake` and a cache."""

    base: Path
    cache: Path
    store: ObjectStore

    @property
    def context(self) -> SourceContext:
        return SourceContext(self.store, self.base, self.cache, generator)

    def compute_fingerprint(self, source: str) -> str:
        return parse_file(source).fingerprint(self.context)

    def find_filename(self, source: str) -> str:
        (listed_file,) = parse_file(source).files(self.context)
        return listed_file.filename

    def copy(self, source: str) -> CopyResult:
        return parse_file(source).copy(self.context, DESTINATION)

    def copy_content(self, source: str) -> bytes:
        copy_result = self.copy(source)
        content = self.store.get(DESTINATION)
        assert copy_result.size == len(content)
        return content

    def read_refusal(self, source: str) -> str:
        """The message with which both a look and a copy refuse the source; nothing is published."""
        for attempt in (self.compute_fingerprint, self.copy):
            with pytest.raises(SourceError) as error:
                attempt(source)
            assert "\n" not in str(error.value)
        assert self.store.head(DESTINATION) is None
        return str(error.value)


def zip_members(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


ARCHIVE = zip_members({"ml/ratings.csv": CONTENT, "ml/README.txt": b"read me"})
