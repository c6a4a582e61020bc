"""A lease on a pipeline's step: one run at a time works on it.

The lease is the object with the highest number in the step's folder. Releasing deletes it; if its
owner is dead, the next number supersedes it. Exclusive creation is what S3 (If-None-Match) and a
folder (O_EXCL) have in common. Clocks are never compared: a waiting run measures with its own clock
how long nothing has changed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from batchrec_dagster.storage.object_store import ObjectNotFoundError, ObjectStore, StorageError
from batchrec_dagster.storage.resource import storage_errors

RENEW_SECONDS = 15.0
EXPIRES_SECONDS = 60.0
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Lease:
    """Exclusive use of a step within `held`. `folder`: its URI, with the final slash."""

    store: ObjectStore
    folder: str
    owner: str
    log: logging.Logger
    deadline_seconds: float
    renew_seconds: float = RENEW_SECONDS
    expires_seconds: float = EXPIRES_SECONDS
    look_seconds: float = LOOK_SECONDS
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait until no other living run holds it, then renew it until the block ends.

        Raises dg.Failure after the deadline, or if the storage cannot be written.
        """
        with storage_errors():
            number = self._acquire()
        done = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(number, done), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            done.set()
            renewing.join()
            with suppress(StorageError):
                self.store.delete(self._uri(number))

    def _acquire(self) -> int:
        deadline = time.monotonic() + self.deadline_seconds
        # Usually there is no other run, so try to create before listing.
        number, dead, seen, since, logged = 1, None, None, 0.0, False
        while not self._created(number, dead):
            now = time.monotonic()
            number, dead = self._highest(), None
            held = self._read(number)
            if held is None:
                # Released: all who wait try to create the same number, so one of them gets it.
                number = 1
                continue
            if (number, held) != seen:
                seen, since = (number, held), now
            if now - since >= self.expires_seconds or _is_dead(held):
                self.log.info(f"{_who(held)} is dead: taking over")
                number, dead = number + 1, held
                continue
            if not logged:
                logged = True
                self.log.info(f"{_who(held)} is working on this: waiting until it is done")
            if now > deadline:
                raise dg.Failure(
                    f"{_who(held)} is still working on this after"
                    f" {self.deadline_seconds / 3600:g} hours: wait, or terminate it",
                    allow_retries=False,
                )
            time.sleep(self.look_seconds)
        return number

    def _created(self, number: int, dead: bytes | None) -> bool:
        """Whether this run now holds the lease; `dead`: the content of the number before it."""
        if not self.store.create(self._uri(number), self._content(0)):
            return False
        others = [other for other in self._numbers() if other != number]
        overtaken = others and (max(others) > number or dead is None)
        if overtaken or (dead is not None and self._read(number - 1) != dead):
            # Meanwhile another run got it, or took over from the same dead one and released it.
            self.store.delete(self._uri(number))
            return False
        for superseded in others:
            self.store.delete(self._uri(superseded))
        return True

    def _renew(self, number: int, done: threading.Event) -> None:
        renewals = 0
        while not done.wait(self.renew_seconds):
            renewals += 1
            try:
                if self._highest() != number:
                    # The other run finds and reuses what this one creates.
                    self.log.warning("another run has taken over: this one was too slow")
                    return
                self.store.put(self._uri(number), self._content(renewals))
            except StorageError as error:
                self.log.warning(f"this run's lease was not renewed: {error}")

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        found = self.store.list(self.folder)
        return [int(one.uri.removeprefix(self.folder).removesuffix(".json")) for one in found]

    def _read(self, number: int) -> bytes | None:
        if number:
            with suppress(ObjectNotFoundError):
                return self.store.get(self._uri(number))
        return None

    def _uri(self, number: int) -> str:
        return f"{self.folder}{number:06}.json"

    def _content(self, renewals: int) -> bytes:
        content = {"owner": self.owner, "renewals": renewals, "pid": os.getpid()}
        return json.dumps({**content, "machine": _machine(), "mark": self.mark}).encode()


def _who(content: bytes) -> str:
    held = json.loads(content)
    return f"run {held['owner']} (process {held['pid']} on {held['machine'].partition(' ')[0]})"


def _is_dead(content: bytes) -> bool:
    """Whether the owner is known to be dead, as it ran on this machine."""
    held = json.loads(content)
    if held["machine"] != _machine():
        return False
    try:
        os.kill(held["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _machine() -> str:
    """Where a process id is valid: containers may share a host name but not the ids."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()
