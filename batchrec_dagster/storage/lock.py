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
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from batchrec_dagster.errors import UserError
from batchrec_dagster.storage.objects import ObjectNotFoundError, ObjectStore
from batchrec_dagster.storage.processes import describe_process_space, is_process_alive
from batchrec_dagster.storage.records import parse_record

RENEW_SECONDS = 15.0
EXPIRES_SECONDS = 60.0
POLL_SECONDS = 1.0
_NAME = re.compile(r"([0-9]{6,15})\.json")


@dataclass(frozen=True)
class Lease:
    """Exclusive use of a step while a `hold` block runs."""

    store: ObjectStore
    folder: str
    """The URI of the folder of the step's leases, with the final slash."""
    owner: str
    """The id of the run."""
    log: logging.Logger
    deadline_seconds: float
    """How long to wait for another run."""
    renew_seconds: float = RENEW_SECONDS
    expires_seconds: float = EXPIRES_SECONDS
    """After how long without a renewal the owner counts as dead."""
    poll_seconds: float = POLL_SECONDS
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Makes the content of the lease unlike that of any other."""

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Wait until no other living run holds the lease, then renew it until the block ends.

        Raises UserError after the deadline, or if the storage cannot be written.
        """
        number = self._acquire()
        released = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(number, released), daemon=True)
        renewing.start()
        try:
            yield
        finally:
            released.set()
            renewing.join()
            try:
                self.store.delete(self._uri(number))
            except UserError as error:
                self.log.warning(f"this run's lease was not released: {error}")

    def _acquire(self) -> int:
        """The number of the lease that this run now holds."""
        deadline = time.monotonic() + self.deadline_seconds
        # Usually there is no other run, so try to create before listing.
        number = 1
        # The content of the lease of a dead run, whose number is the one before.
        dead_content: bytes | None = None
        last_seen: tuple[int, bytes] | None = None
        unchanged_since = 0.0
        is_wait_logged = False
        while not self._try_to_create(number, dead_content):
            now = time.monotonic()
            number, dead_content = self._highest(), None
            content = self._read(number)
            if content is None:
                # Released: all who wait try to create the same number, so one of them gets it.
                number = 1
                continue
            if (number, content) != last_seen:
                last_seen, unchanged_since = (number, content), now
            if now - unchanged_since >= self.expires_seconds or _is_dead(content):
                self.log.info(f"{_describe_owner(content)} is dead: taking over")
                number, dead_content = number + 1, content
                continue
            if not is_wait_logged:
                is_wait_logged = True
                owner = _describe_owner(content)
                place = "" if _Content.parse(content) else f" ({self._uri(number)})"
                self.log.info(f"waiting for {owner}{place}, which is working on this")
            if now > deadline:
                raise UserError(
                    f"{_describe_owner(content)} is still working on this after"
                    f" {self.deadline_seconds / 3600:g} hours: wait, or terminate it"
                )
            time.sleep(self.poll_seconds)
        return number

    def _try_to_create(self, number: int, dead_content: bytes | None) -> bool:
        """Whether this run now holds the lease of this number.

        dead_content: the content of the number before it, if that belongs to a dead run.
        """
        if not self.store.create(self._uri(number), self._content(0)):
            return False
        others = [other for other in self._numbers() if other != number]
        overtaken = others and (max(others) > number or dead_content is None)
        if overtaken or (dead_content is not None and self._read(number - 1) != dead_content):
            # Meanwhile another run got it, or took over from the same dead one and released it.
            self.store.delete(self._uri(number))
            return False
        for superseded in others:
            self.store.delete(self._uri(superseded))
        return True

    def _renew(self, number: int, released: threading.Event) -> None:
        renewals = 0
        while not released.wait(self.renew_seconds):
            renewals += 1
            try:
                if self._highest() != number:
                    # The other run finds and reuses what this one creates.
                    self.log.warning("another run has taken over: this one was too slow")
                    return
                self.store.put(self._uri(number), self._content(renewals))
            except UserError as error:
                self.log.warning(f"this run's lease was not renewed: {error}")

    def _highest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        leases = self.store.list(self.folder)
        # Another program may have put a file of its own there.
        names = (_NAME.fullmatch(lease.uri, len(self.folder)) for lease in leases)
        return [int(name[1]) for name in names if name]

    def _read(self, number: int) -> bytes | None:
        if number:
            with suppress(ObjectNotFoundError):
                return self.store.get(self._uri(number))
        return None

    def _uri(self, number: int) -> str:
        return f"{self.folder}{number:06}.json"

    def _content(self, renewals: int) -> bytes:
        content = {"owner": self.owner, "renewals": renewals, "pid": os.getpid()}
        return json.dumps(
            {**content, "machine": describe_process_space(), "mark": self.mark}
        ).encode()


@dataclass(frozen=True)
class _Content:
    """The content of a lease."""

    owner: str
    """The id of the run."""
    pid: int
    machine: str
    """Where the process id is valid."""

    @classmethod
    def parse(cls, content: bytes) -> Self | None:
        """The content, or None if something else has damaged it."""
        try:
            record = parse_record(content, cls)
        except ValueError:
            return None
        return cls(record["owner"], record["pid"], record["machine"])


def _describe_owner(content: bytes) -> str:
    lease = _Content.parse(content)
    if lease is None:
        return "a run whose lease is damaged"
    machine = lease.machine.partition(" ")[0]
    return f"run {lease.owner} (process {lease.pid} on {machine})"


def _is_dead(content: bytes) -> bool:
    """Whether the owner is known to be dead, as it ran on this machine.

    Of a damaged lease nobody knows: it counts until it has not been renewed for long enough.
    """
    lease = _Content.parse(content)
    if lease is None or lease.machine != describe_process_space():
        return False
    return not is_process_alive(lease.pid)
