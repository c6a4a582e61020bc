"""Who works at a step of a pipeline: one run at a time, by an object that only one can create.

The lease of a step is the object of the highest number in its folder. A lease that is given up is
deleted; one whose owner is dead is superseded by the next number. To create an object that must not
exist yet is the one thing that S3 (If-None-Match) and a folder (O_EXCL) do alike. Clocks are never
compared: a waiting run sees by its own clock how long nothing has changed.
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

RENEW_SECONDS = 15.0
EXPIRES_SECONDS = 60.0
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Lease:
    """Whoever is within `held` has the folder, a URI with its final slash, for itself."""

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
        """Waits until nobody else who is alive has it; has it renewed until the block ends.

        Raises dg.Failure when the deadline has passed, or the storage cannot be written to.
        """
        try:
            number = self._acquire()
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
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
        # Nearly always there is no other, so that this is not asked for first.
        number, seen, since, told = 1, None, 0.0, False
        while not self._created(number):
            now = time.monotonic()
            number = self._highest()
            held = self._read(number)
            if held is None:
                number += 1
                continue
            if (number, held) != seen:
                seen, since = (number, held), now
            if now - since >= self.expires_seconds or _is_dead(held):
                self.log.info(f"{_who(held)} is dead: taking over from it")
                number += 1
                continue
            if not told:
                told = True
                self.log.info(f"{_who(held)} is at work on this: waiting until it is done")
            if now > deadline:
                raise dg.Failure(
                    f"{_who(held)} is still at work on this, after"
                    f" {self.deadline_seconds / 3600:g} hours: wait until it is done, or end it",
                    allow_retries=False,
                )
            time.sleep(self.look_seconds)
        return number

    def _created(self, number: int) -> bool:
        """Whether this has the lease now, by this number."""
        if not self.store.create(self._uri(number), self._content(0)):
            return False
        numbers = self._numbers()
        if max(numbers, default=number) > number:
            # Another took over, and cleared this number away, between the look and the creation.
            self.store.delete(self._uri(number))
            return False
        for superseded in numbers:
            if superseded < number:
                self.store.delete(self._uri(superseded))
        return True

    def _renew(self, number: int, done: threading.Event) -> None:
        renewals = 0
        while not done.wait(self.renew_seconds):
            renewals += 1
            try:
                if self._highest() != number:
                    # It was thought dead. What it does is found by the other, and not done twice.
                    self.log.warning("another run has taken over from this one, which was too slow")
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
        told = {"owner": self.owner, "renewals": renewals, "pid": os.getpid()}
        return json.dumps({**told, "machine": _machine(), "mark": self.mark}).encode()


def _who(content: bytes) -> str:
    held = json.loads(content)
    return f"run {held['owner']} (process {held['pid']} on {held['machine'].partition(' ')[0]})"


def _is_dead(content: bytes) -> bool:
    """Whether the owner is known to be dead: its process was one of this machine."""
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
    """Where a process number counts: containers of one host name have numbers of their own."""
    with suppress(OSError):
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()
