"""The list of users who were erased, which keeps them out if a source still has them.

It has no ids, but hashes of them: HMAC-SHA-256 with a random salt of the pipeline as the key. They
are pseudonymous, not anonymous. Ids are often small numbers, so whoever can read the storage can
hash guesses and find out whether a person was erased, but not read an id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import polars as pl
from pydantic import StringConstraints

from batchrec_dagster.storage.json_records import parse_record
from batchrec_dagster.storage.object_store import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.paths import PipelineFiles

# The name of the record.
RECORD = "suppressed_users"
FIX = (
    "restore it from a backup, or delete it and run batchrec forget again for everyone who was"
    " erased: without it they come back if a source still has them"
)
# The bytes of the salt and of a hash.
HASH_BYTES = 32


@dataclass(frozen=True)
class SuppressedUsers:
    """The salted hashes of the users who were erased. It is changed by making another one."""

    salt: bytes = b""
    hashes: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def version(self) -> str | None:
        """16 hexadecimal digits that change with the list; None if nobody is on it."""
        if not self.hashes:
            return None
        digest = hashlib.sha256(self.salt)
        for value in sorted(self.hashes):
            digest.update(value)
        return digest.hexdigest()[:16]

    def is_suppressed(self, user: str) -> bool:
        """Whether the user of this id was erased."""
        return self._hash(user) in self.hashes

    def find(self, users: pl.Series) -> pl.Series:
        """Those of these ids whose users were erased, each once.

        It is for ids of which most are different: each takes about a microsecond.
        """
        if not self.hashes:
            return pl.Series(users.name, [], pl.String)
        ids = users.drop_nulls().unique(maintain_order=True).to_list()
        return pl.Series(users.name, filter(self.is_suppressed, ids), pl.String)

    def drop_from(self, rows: pl.DataFrame, column: str) -> pl.DataFrame:
        """The rows without those of users who were erased.

        column: has the ids of users.
        """
        erased = self.find(rows.get_column(column))
        if not len(erased):
            return rows
        return rows.filter(~pl.col(column).is_in(erased.implode()).fill_null(value=False))

    def add(self, users: Iterable[str]) -> SuppressedUsers:
        """The list with these users too."""
        extended = self if self.salt else SuppressedUsers(secrets.token_bytes(HASH_BYTES))
        added = {extended._hash(user) for user in users}
        return SuppressedUsers(extended.salt, extended.hashes | added) if added else self

    def to_json(self) -> dict[str, Any]:
        return {"salt": self.salt.hex(), "users": sorted(value.hex() for value in self.hashes)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(bytes.fromhex(record["salt"]), frozenset(map(bytes.fromhex, record["users"])))

    def _hash(self, user: str) -> bytes:
        return hmac.digest(self.salt, user.encode(), "sha256")


NOBODY = SuppressedUsers()

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
    """Reads and writes a pipeline's list. Its methods raise StorageError."""

    files: PipelineFiles

    def read(self) -> SuppressedUsers:
        """The users who were erased. Raises DamagedObjectError for a list that cannot be read."""
        try:
            return parse_suppressed_users(self.files.storage.store.get(self._uri))
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
            self.files.write_record(RECORD, extended.to_json())
        return extended

    @property
    def _uri(self) -> str:
        return self.files.uri(self.files.storage_keys.record(RECORD))


def parse_suppressed_users(data: bytes) -> SuppressedUsers:
    """The list in the bytes of its record. Raises ValueError."""
    return SuppressedUsers.from_json(parse_record(data, _Record))


def format_suppressed_users(suppressed: SuppressedUsers) -> bytes:
    """The bytes of a record, which `parse_suppressed_users` reads."""
    return json.dumps(suppressed.to_json()).encode()
