"""Storage: objects below a folder or in a bucket, locks, and erased users."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.erased import NOBODY, ErasedUsers, add_erased_users, read_erased_users
from batchrec_dagster.storage.layout import PipelineFiles, PipelineKeys
from batchrec_dagster.storage.lock import Lock, hold_lock
from batchrec_dagster.storage.objects import ObjectNotFoundError

StorageError = UserError
NotFoundError = ObjectNotFoundError


@dataclass(frozen=True)
class Store:
    """Objects by key, below a root that is a folder or a bucket's prefix."""

    storage: Storage

    @classmethod
    def open(cls, root: Path | str, environment: Mapping[str, str] | None = None) -> Store:
        """Open the store at this root.

        environment: AWS's variables for a bucket, as `S3Server.environment` returns them.
        """
        variables = environment or {}
        connection = S3Connection(
            endpoint_url=variables.get("AWS_ENDPOINT_URL_S3"),
            region_name=variables.get("AWS_DEFAULT_REGION"),
            aws_access_key_id=variables.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=variables.get("AWS_SECRET_ACCESS_KEY"),
        )
        return cls(Storage(root=str(root), s3=connection))

    def put(self, key: str, data: bytes | Path | Iterable[bytes]) -> None:
        """Write the object atomically. Raises StorageError."""
        self.storage.store.put(self.storage.uri(key), data)

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless it exists, and return whether it was written."""
        return self.storage.store.create(self.storage.uri(key), data)

    def get(self, key: str) -> bytes:
        """Return the object's content. Raises NotFoundError and StorageError."""
        return self.storage.store.get(self.storage.uri(key))

    def list(self, prefix: str) -> list[str]:
        """Return the keys that start with exactly this prefix, in order."""
        root = self.storage.uri("")
        uris = [info.uri for info in self.storage.store.list(self.storage.uri(prefix))]
        return [uri.removeprefix(root) for uri in uris]

    def erase(self, users: Iterable[str]) -> None:
        """Remember that these users were erased from the pipeline `shop`."""
        add_erased_users(PipelineFiles(self.storage, PipelineKeys("shop")), users)

    def is_erased(self, user: str) -> bool:
        """Return whether the user was erased from the pipeline `shop`. Raises StorageError."""
        erased = read_erased_users(PipelineFiles(self.storage, PipelineKeys("shop")))
        return erased.is_erased(user)

    def delete(self, key: str) -> None:
        """Delete the object if it exists."""
        self.storage.store.delete(self.storage.uri(key))

    @contextmanager
    def lock(
        self,
        step: str,
        owner: str,
        *,
        wait_seconds: float = 300,
        renew_seconds: float = 15,
        expires_seconds: float = 60,
    ) -> Iterator[Lock]:
        """Hold the lock of a step of the pipeline `shop` during the block, and yield the lock.

        wait_seconds: how long to wait for the lock. Raises StorageError after that.
        renew_seconds: the time between two renewals of the lock.
        expires_seconds: the time without a renewal after which another process counts as dead.
        """
        with hold_lock(
            self.storage.store,
            self.storage.uri(f"shop/locks/{step}.lock"),
            owner,
            logging.getLogger("lock"),
            wait_seconds,
            renew_seconds=renew_seconds,
            expires_seconds=expires_seconds,
            poll_seconds=0.01,
        ) as lock:
            yield lock


def drop_erased_users(erased: Iterable[str], rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the rows of users who are not erased.

    The erased users are first encoded as the file that stores them, and decoded again, as in a run.
    """
    return ErasedUsers.decode(NOBODY.add(erased).encode()).drop_from(rows, column)
