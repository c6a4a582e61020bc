"""The list of users who were erased, which keeps them out if a source still has them.

It has no ids, but salted hashes of them, see `hashed_users`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import StringConstraints

from batchrec_dagster.storage.hashed_users import HASH_BYTES, NOBODY, SuppressedUsers
from batchrec_dagster.storage.layout import PipelineFiles, write_record
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import parse_record

FIX = (
    "restore it from a backup, or delete it and run batchrec forget again for everyone who was"
    " erased: without it they come back if a source still has them"
)

_Hex = Annotated[str, StringConstraints(pattern=f"^[0-9a-f]{{{2 * HASH_BYTES}}}$")]


@dataclass(frozen=True)
class _Record:
    """The shape of the record."""

    salt: _Hex
    """The key of the hashes, in hexadecimal."""
    users: list[_Hex] = field(default_factory=list)
    """The hash of each user, in hexadecimal."""


@dataclass(frozen=True)
class SuppressionList:
    """Reads and writes a pipeline's list. Its methods raise UserError."""

    files: PipelineFiles

    def read(self) -> SuppressedUsers:
        """The users who were erased. Raises DamagedObjectError for a list that cannot be read."""
        try:
            record = parse_record(self.files.storage.store.get(self._uri), _Record)
            return SuppressedUsers.from_json(record)
        except ObjectNotFoundError:
            return NOBODY
        except ValueError as error:
            where = self.files.storage.where(self._uri)
            raise DamagedObjectError(where, error, FIX) from error

    def add(self, users: Iterable[str]) -> SuppressedUsers:
        """Put these users on the list, and return it.

        Two processes must not add at the same time: the users of one of them would be lost.
        """
        stored = self.read()
        extended = stored.add(users)
        if extended != stored:
            write_record(self.files.storage, self.files.keys.suppressed_users, extended.to_json())
        return extended

    @property
    def _uri(self) -> str:
        return self.files.uri(self.files.keys.suppressed_users)
