"""The outputs of batch jobs: JSON Lines of the users' lists, and of the segments' users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.personalize.file_formats import OUTPUT_SUFFIX, SEGMENT_LISTS, USER_FIELD
from batchrec_dagster.steps.batch_jobs import split_at_lines
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.layout import PipelineFiles


@dataclass(frozen=True)
class JobOutputLines:
    """What batch jobs wrote. A line of a user goes, and a user in the line of a segment."""

    files: PipelineFiles
    name: str = "batch outputs"
    consequence: str = "lines removed"

    def count(self, people: People) -> Amount:
        return Amount(sum(self._count(uri, people) for uri in self._list()), "lines")

    def erase(self, people: People) -> int:
        return sum(self._erase(uri, people) for uri in self._list())

    def _list(self) -> Iterator[str]:
        keys, store = self.files.keys, self.files.storage.store
        for folder in (keys.job_output("batch_inference"), keys.job_output("batch_segments")):
            for info in store.list(self.files.uri(folder)):
                # Others say why an output was rejected, for example.
                if info.uri.endswith(OUTPUT_SUFFIX):
                    yield info.uri

    def _count(self, uri: str, people: People) -> int:
        return sum(after != before for before, after in self._iterate_lines(uri, people))

    def _erase(self, uri: str, people: People) -> int:
        store = self.files.storage.store
        with temporary_folder() as folder:
            path, number = folder / "lines", 0
            with path.open("wb") as file:
                for before, after in self._iterate_lines(uri, people):
                    number += after != before
                    file.write(after)
            if number and path.stat().st_size:
                store.put(uri, path)
            elif number:
                store.delete(uri)
        return number

    def _iterate_lines(self, uri: str, people: People) -> Iterator[tuple[bytes, bytes]]:
        """Each line with its end, and what stays of it."""
        for piece in split_at_lines(self.files.storage.store.chunks(uri)):
            for line in piece.splitlines(keepends=True):
                yield line, _erase_from_line(line, people)


def _erase_from_line(line: bytes, people: People) -> bytes:
    try:
        record: Any = json.loads(line)
        user, output = record["input"].get(USER_FIELD), record.get("output") or {}
    except (ValueError, LookupError, TypeError, AttributeError):
        # A damaged line, which nobody reads, may be of anybody.
        return b""
    if user in people:
        return b""
    lists = [name for name in SEGMENT_LISTS if set(output.get(name) or ()) & people.ids]
    if not lists:
        return line
    for name in lists:
        output[name] = [user for user in output[name] if user not in people]
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
