"""A lock on a step of a pipeline or a list: only one run at a time works at the step.

In a folder, the lock is the operating system's lock on a file. It becomes free when its process
ends. In a bucket, the lock is an object that its holder renews. The object changes only by a put
that names the version to replace. A waiting run takes over a lock that nobody has renewed for a
while. It never compares two clocks: it measures with its own clock how long the object has not
changed.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.storage.durable import limit_mode
from batchrec_dagster.storage.objects import (
    ABSENT,
    ObjectNotFoundError,
    ObjectReplacedError,
    ObjectStore,
)

RENEW_SECONDS = 15.0
# After this time without a renewal, the holder of a lock in a bucket counts as dead.
EXPIRES_SECONDS = 60.0
POLL_SECONDS = 1.0


class Lock(Protocol):
    """A lock that this run holds."""

    def require_held(self) -> None:
        """Raise Retry if another run has taken the lock over, so that nothing is published."""


@contextmanager
def hold_lock(
    store: ObjectStore,
    uri: str,
    owner: str,
    log: logging.Logger,
    wait_seconds: float,
    *,
    renew_seconds: float = RENEW_SECONDS,
    expires_seconds: float = EXPIRES_SECONDS,
    poll_seconds: float = POLL_SECONDS,
) -> Iterator[Lock]:
    """Wait until no other living run holds the lock, and hold the lock until the block ends.

    owner: the id of the run, which other runs name while they wait for it.
    wait_seconds: the longest time to wait for another run.

    Raises Retry if the wait is too long, and UserError if the storage cannot be written.
    """
    path = store.local_path(uri)
    lock = (
        _BucketLock(store, uri, owner, log, renew_seconds, expires_seconds)
        if path is None
        else _FolderLock(store, uri, path, owner)
    )
    deadline = time.monotonic() + wait_seconds
    is_wait_logged = False
    while not lock.try_to_acquire():
        if not is_wait_logged:
            is_wait_logged = True
            log.info(f"waiting for {lock.describe_holder()}, which is working on this")
        if time.monotonic() > deadline:
            raise Retry(
                f"{lock.describe_holder()} is still working on this after"
                f" {wait_seconds / 60:,.0f} minutes: wait, or terminate it"
            )
        time.sleep(poll_seconds)
    try:
        yield lock
    finally:
        lock.release()


def is_held(store: ObjectStore, uri: str) -> bool:
    """Return whether a run holds the lock, or died too recently for the lock to have expired.

    In a bucket, this machine's clock decides whether the lock has expired, because nobody waits to
    see a renewal.
    Raises UserError.
    """
    path = store.local_path(uri)
    if path is not None:
        lock = _FolderLock(store, uri, path, "")
        if not path.exists():
            return False
        is_free = lock.try_to_acquire()
        lock.release()
        return not is_free
    content = _read_content(store, uri)
    info = store.head(uri)
    if info is None or (content is not None and not content.owner):
        return False
    return time.time() - info.last_modified.timestamp() < EXPIRES_SECONDS


class _FolderLock:
    """An operating system's lock on a file. The file names the run that holds the lock."""

    def __init__(self, store: ObjectStore, uri: str, path: Path, owner: str) -> None:
        self._store, self._uri, self._path, self._owner = store, uri, path, owner
        self._lock: FileLock | None = None
        self._inode = 0

    def try_to_acquire(self) -> bool:
        """Try to take the lock, and return whether this run now holds it."""
        with self._store.explain_errors(self._uri, "write"):
            self._store.make_folder(self._uri)
            mode = limit_mode(0o666, self._path.parent)
            # A soft lock is only a file, not a lock of the operating system. It would outlive its
            # process.
            lock = FileLock(self._path, mode=mode, thread_local=False, fallback_to_soft=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                return False
            self._lock, self._inode = lock, self._path.stat().st_ino
            self._path.write_text(self._owner)
        return True

    def describe_holder(self) -> str:
        """Return the run that holds the lock, in words."""
        with suppress(OSError, ValueError):
            return f"run {self._path.read_text()}"
        return "another run"

    def require_held(self) -> None:
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                return
        raise _build_overtaken_error(f"somebody has deleted {self._path} meanwhile")

    def release(self) -> None:
        if self._lock is None:
            return
        try:
            # A waiting run sees that the file it has opened is gone, and makes a new file.
            with suppress(OSError, UserError):
                self.require_held()
                self._path.unlink()
        finally:
            self._lock.release()


class _Content(BaseModel, frozen=True):
    """The content of a lock's object in a bucket."""

    owner: str
    """The id of the run that holds the lock; empty if no run holds it."""
    mark: str
    """A random text that makes the object different from any other holder's object."""
    renewals: int = 0

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


class _BucketLock:
    """A lock in a bucket: an object that a run can replace only if it names the version."""

    def __init__(
        self,
        store: ObjectStore,
        uri: str,
        owner: str,
        log: logging.Logger,
        renew_seconds: float,
        expires_seconds: float,
    ) -> None:
        self._store, self._uri, self._log = store, uri, log
        self._renew_seconds, self._expires_seconds = renew_seconds, expires_seconds
        self._content = _Content(owner=owner, mark=uuid.uuid4().hex)
        self._etag = ABSENT
        self._holder = "another run"
        # The ETag of another run's object, and the time since which it has not changed.
        self._seen: tuple[str, float] = (ABSENT, 0.0)
        self._is_lost = False
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew_until_released, daemon=True)
        self._mutex = threading.Lock()

    def try_to_acquire(self) -> bool:
        """Try to take the lock, and return whether this run now holds it."""
        info = self._store.head(self._uri)
        if info is not None:
            content = _read_content(self._store, self._uri)
            if (content is None or content.owner) and not self._is_expired(info.etag, content):
                return False
        try:
            self._etag = self._store.replace(
                self._uri, self._content.encode(), info.etag if info else ABSENT
            )
        except ObjectReplacedError:
            return False
        self._renewing.start()
        return True

    def _is_expired(self, etag: str, content: _Content | None) -> bool:
        """Return whether another run counts as dead, because its lock has not changed for long."""
        now = time.monotonic()
        self._holder = (
            f"run {content.owner}" if content else f"a run whose lock {self._uri} is damaged"
        )
        if etag != self._seen[0]:
            self._seen = (etag, now)
        is_expired = now - self._seen[1] >= self._expires_seconds
        if is_expired:
            self._log.info(f"{self._holder} is dead: taking over")
        return is_expired

    def describe_holder(self) -> str:
        """Return the run that holds the lock, in words."""
        return self._holder

    def _renew_until_released(self) -> None:
        """Renew the lock every few seconds. This runs in a thread."""
        while not self._released.wait(self._renew_seconds) and not self._is_lost:
            try:
                self._renew()
            except UserError as error:
                self._log.warning(f"this run's lock was not renewed: {error}")

    def _renew(self) -> None:
        """Renew the lock, unless another run has taken it over."""
        with self._mutex:
            if self._is_lost:
                return
            update = {"renewals": self._content.renewals + 1}
            self._content = self._content.model_copy(update=update)
            try:
                self._etag = self._store.replace(self._uri, self._content.encode(), self._etag)
            except ObjectReplacedError:
                self._is_lost = True
                self._log.warning("another run has taken over: this one was too slow")

    def require_held(self) -> None:
        self._renew()
        if self._is_lost:
            raise _build_overtaken_error("this one was too slow")

    def release(self) -> None:
        if not self._renewing.is_alive():
            return
        self._released.set()
        self._renewing.join()
        free = self._content.model_copy(update={"owner": ""})
        try:
            with suppress(ObjectReplacedError):
                if not self._is_lost:
                    self._store.replace(self._uri, free.encode(), self._etag)
        except UserError as error:
            self._log.warning(f"this run's lock was not released: {error}")


def _read_content(store: ObjectStore, uri: str) -> _Content | None:
    """Return the content of a lock's object; None if it is missing or damaged."""
    with suppress(ObjectNotFoundError, ValidationError):
        return _Content.model_validate_json(store.get(uri))
    return None


def _build_overtaken_error(reason: str) -> Retry:
    return Retry(f"another run has taken over, because {reason}: nothing was published")
