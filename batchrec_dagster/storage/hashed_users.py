"""The hashed ids of users who were erased, and whether an id is one of them.

The hashes are HMAC-SHA-256 with a random salt of the pipeline as the key. They are pseudonymous,
not anonymous. Ids are often small numbers, so whoever can read the storage can hash guesses and
find out whether a person was erased, but not read an id. A slower hash would make guesses dearer,
but every night hashes all users of the source.

It imports nothing that opens files, because it is sent to the workers of Spark.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

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
