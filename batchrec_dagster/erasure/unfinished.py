"""The record of an erasure that has not ended. It has no ids."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from batchrec_dagster.erasure.people import People
from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.erased import ErasedUsers, read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.objects import ObjectNotFoundError
from batchrec_dagster.storage.records import parse_record


@dataclass(frozen=True)
class StartedErasure:
    """What is known of an erasure that has not ended."""

    started_at: str
    """In ISO 8601."""
    request: str
    """A random part of the names of Personalize's jobs, which says nothing about the people."""
    amounts: Mapping[str, int]
    """How much each place had of the people at the start."""


@dataclass(frozen=True)
class UnfinishedErasure:
    """The place of the record of an erasure of these people from a pipeline.

    Its name is a digest of the salted hashes of their ids, so that the same people find it again.
    """

    files: PipelineFiles
    digest: str

    @classmethod
    def of(cls, files: PipelineFiles, people: People) -> UnfinishedErasure:
        """The record of these people, who are on the pipeline's list of suppressed people."""
        salt = read_erased_users(files).salt
        digest = ErasedUsers(salt).add(people.ids).version
        assert digest is not None, "there are people"
        return cls(files, digest)

    def find(self) -> StartedErasure | None:
        """The erasure; None if there is none of these people. Raises UserError."""
        try:
            record = parse_record(self.files.storage.store.get(self._uri), StartedErasure)
        except ObjectNotFoundError:
            return None
        except ValueError:
            # It only says what was there. The erasure starts again.
            return None
        return StartedErasure(record["started_at"], record["request"], record["amounts"])

    def read(self) -> StartedErasure:
        """The erasure, which was started. Raises UserError if it was not."""
        erasure = self.find()
        if erasure is None:
            raise UserError(f"{self._uri} is gone: run batchrec forget again")
        return erasure

    def start(self, amounts: Mapping[str, int]) -> StartedErasure:
        """The erasure, of which a record is written unless there is one.

        amounts: how much each place has of the people.
        """
        erasure = self.find()
        if erasure is None:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            erasure = StartedErasure(now, secrets.token_hex(8), dict(amounts))
            self.files.storage.store.put(self._uri, json.dumps(asdict(erasure), indent=2).encode())
        return erasure

    def end(self) -> None:
        """Delete the record."""
        self.files.storage.store.delete(self._uri)

    @property
    def _uri(self) -> str:
        return self.files.uri(f"{self.files.keys.unfinished_erasures}{self.digest}.json")


def count_unfinished(files: PipelineFiles) -> int:
    """How many erasures from this pipeline have not ended."""
    return len(files.storage.store.list(files.uri(files.keys.unfinished_erasures)))
