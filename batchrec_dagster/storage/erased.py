"""The users who were erased from a pipeline, kept as salted hashes so that runs leave them out.

A source may still have these users. The hashes are HMAC-SHA-256, with a random salt of the pipeline
as the key. They are pseudonymous, not anonymous. Ids are often small numbers, so whoever can read
the storage can hash guesses and find out whether a person was erased, but cannot read an id. A
slower hash would make guesses more expensive. It would also slow down each nightly run, which
hashes all users of the source.

The module is sent to the workers of Spark. So it imports the modules that open files only when a
file is read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import polars as pl

if TYPE_CHECKING:
    from batchrec_dagster.storage.layout import PipelineFiles

SALT_BYTES = 32
FIX = (
    "restore it from a backup, or delete it and run batchrec forget again for everyone who was"
    " erased: without it they come back if a source still has them"
)


@dataclass(frozen=True)
class ErasedUsers:
    """The salted hashes of the users who were erased.

    An object does not change: `add` returns a new one.
    """

    salt: bytes = b""
    hashes: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def version(self) -> str | None:
        """16 hexadecimal digits that change with the users; None if nobody was erased."""
        return self.checksum[:16] if self.hashes else None

    @cached_property
    def checksum(self) -> str:
        """The SHA-256 of the salt and of the hashes, in hexadecimal."""
        digest = hashlib.sha256(self.salt)
        for value in sorted(self.hashes):
            digest.update(value)
        return digest.hexdigest()

    def is_erased(self, user: str) -> bool:
        """Return whether the user with this id was erased."""
        return self._hash(user) in self.hashes

    def find(self, users: pl.Series) -> pl.Series:
        """Return the ids of erased users that are in the column, each id once.

        The method suits columns with few repeated ids. Each distinct id takes about a microsecond.
        """
        if not self.hashes:
            return pl.Series(users.name, [], pl.String)
        ids = users.drop_nulls().unique(maintain_order=True).to_list()
        return pl.Series(users.name, filter(self.is_erased, ids), pl.String)

    def drop_from(self, rows: pl.DataFrame, column: str) -> pl.DataFrame:
        """Return the rows without the rows of erased users.

        column: the column with the users' ids.
        """
        erased = self.find(rows.get_column(column))
        if not len(erased):
            return rows
        return rows.filter(~pl.col(column).is_in(erased.implode()).fill_null(value=False))

    def add(self, users: Iterable[str]) -> ErasedUsers:
        """Return the erased users together with these users."""
        extended = self if self.salt else ErasedUsers(secrets.token_bytes(SALT_BYTES))
        added = {extended._hash(user) for user in users}
        return ErasedUsers(extended.salt, extended.hashes | added) if added else self

    def encode(self) -> bytes:
        """Return the content of the file, which includes its own checksum."""
        hashes = sorted(value.hex() for value in self.hashes)
        record = {"salt": self.salt.hex(), "users": hashes, "checksum": self.checksum}
        return (json.dumps(record, indent=2) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the users of a file.

        Raises ValueError if the content was changed since it was written. With a changed salt, no
        erased user would be recognised, and all erased users would come back.
        """
        try:
            record = json.loads(data)
            salt, hashes = record["salt"], frozenset(map(bytes.fromhex, record["users"]))
            users, checksum = cls(bytes.fromhex(salt), hashes), record["checksum"]
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"it is not a list of erased users: {error}") from error
        if checksum != users.checksum:
            raise ValueError("its content does not have its checksum")
        return users

    def _hash(self, user: str) -> bytes:
        return hmac.digest(self.salt, user.encode(), "sha256")


NOBODY = ErasedUsers()


def read_erased_users(files: PipelineFiles) -> ErasedUsers:
    """Return the users who were erased from the pipeline.

    Raises UserError, and DamagedObjectError if the file was changed since it was written.
    """
    from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError

    uri = files.uri(files.keys.erased_users)
    try:
        return ErasedUsers.decode(files.storage.store.get(uri))
    except ObjectNotFoundError:
        return NOBODY
    except ValueError as error:
        raise DamagedObjectError(files.storage.where(uri), error, FIX) from error


def add_erased_users(files: PipelineFiles, users: Iterable[str]) -> ErasedUsers:
    """Record that these users were erased too, and return all erased users.

    Two processes must not add users at the same time: the users of one process would be lost.
    Raises UserError, and DamagedObjectError if the file was changed since it was written.
    """
    recorded = read_erased_users(files)
    extended = recorded.add(users)
    if extended != recorded:
        files.storage.store.put(files.uri(files.keys.erased_users), extended.encode())
    return extended
