"""Runs imports, trainings, inference and the quick work of every kind in the background.

The catalog is the queue. A worker claims a resource by writing its name on it in one transaction,
so nobody else works on it; when the worker's process is gone, another claims the work and starts
it again. Each attempt writes under its own name, which nobody reads until the transaction that
makes the resource ACTIVE names it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batchrec_dagster.local_personalize.catalog.catalog import Catalog, Records, Resource
from batchrec_dagster.local_personalize.catalog.home import Home, Owner, bury, is_alive, remove
from batchrec_dagster.local_personalize.catalog.kinds import Kind, Lane, no_files
from batchrec_dagster.local_personalize.jobs import lifecycle
from batchrec_dagster.local_personalize.jobs.job import ClosingError, Job, logger
from batchrec_dagster.storage.object_store import ObjectStore

_MINUTES = {Lane.QUICK: 1.0, Lane.IMPORT: 8.0, Lane.TRAINING: 20.0, Lane.INFERENCE: 30.0}
_SHARE_PENDING = 0.25  # of the time until it is ACTIVE, a job is CREATE PENDING


@dataclass(frozen=True)
class Pace:
    """`of_aws` is the share of the time on AWS that work takes at least: 0 none, 1 all of it."""

    of_aws: float = 0.0

    def pending_seconds(self, lane: Lane) -> float:
        """How long work waits at least before it begins."""
        return self._seconds(lane) * _SHARE_PENDING

    def in_progress_seconds(self, lane: Lane) -> float:
        """How long work goes on at least once it has begun."""
        return self._seconds(lane) * (1 - _SHARE_PENDING)

    def _seconds(self, lane: Lane) -> float:
        return 60 * _MINUTES[lane] * self.of_aws


def tidy(catalog: Catalog, home: Home, kinds: Mapping[str, Kind]) -> None:
    """Keeps the files that a resource has, and those of work that is not finished."""
    bury(home.owners)
    # Listed before the catalog is read: what is finished in between has its name there by then.
    found = [
        path for folder in (home.datasets, home.models, home.batches) for path in folder.iterdir()
    ]
    if not found:
        return
    with catalog.reading() as records:
        named = {
            home.root / path
            for kind in kinds.values()
            if kind.files is not no_files
            for resource in records.everywhere(kind.name)
            for path in kind.files(records, resource)
        }
        at_work = tuple(home.attempts_prefix(resource.arn) for resource in records.unfinished())
    for path in found:
        if path not in named and not path.name.startswith(at_work):
            remove(path)


# An interpreter that ends waits this long for jobs to reach a place where they can be left.
CLOSE_SECONDS = 3.0


class Worker:
    """A thread for each lane that has work, in this process; they come and go with the work."""

    def __init__(
        self,
        catalog: Catalog,
        home: Home,
        store: ObjectStore,
        kinds: Mapping[str, Kind],
        pace: Pace,
    ) -> None:
        self._catalog, self._home, self._store, self._kinds = catalog, home, store, kinds
        self._pace = pace
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: dict[Lane, threading.Thread] = {}
        self._called: set[Lane] = set()
        self._held: set[str] = set()
        self._owner: Owner | None = None
        self._closing = False
        tidy(catalog, home, kinds)
        atexit.register(_close, weakref.ref(self))

    def wake(self) -> None:
        """See that somebody works on what there is to do; returns at once."""
        if self._closing:
            return
        with self._catalog.reading() as records:
            unfinished = records.unfinished()
        for lane in {self._lane(resource) for resource in unfinished if self._free(resource)}:
            self._call(lane)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Take no more work; jobs in hand are left to others at their next checkpoint."""
        if self._pid != os.getpid():
            return  # A forked child that exits must not give up its parent's work.
        self._closing = True
        until = time.monotonic() + seconds
        for thread in list(self._threads.values()):
            thread.join(max(0.0, until - time.monotonic()))
        if self._owner and not self._threads:
            self._owner.close()

    def _call(self, lane: Lane) -> None:
        with self._lock:
            self._called.add(lane)
            if lane not in self._threads:
                thread = threading.Thread(
                    target=self._work, args=(lane,), name=f"personalize-{lane}", daemon=True
                )
                self._threads[lane] = thread
                thread.start()

    def _work(self, lane: Lane) -> None:
        while True:
            with self._lock:
                if lane not in self._called or self._closing:
                    del self._threads[lane]
                    return
                self._called.discard(lane)
            try:
                while not self._closing and (resource := self._claim(lane)):
                    try:
                        self._do(resource)
                    finally:
                        self._held.discard(resource.arn)
            except Exception:
                # The catalog itself failed (a full disk, say). The work stays; the next request
                # calls this lane again.
                logger.exception("the %s lane of the local Personalize failed", lane)

    def _claim(self, lane: Lane) -> Resource | None:
        with self._lock:
            if self._owner is None:
                self._owner = Owner(self._home.owners)
            name = self._owner.name
        with self._catalog.writing() as records:
            unfinished = records.unfinished()
            for resource in unfinished:
                if self._lane(resource) == lane and self._free(resource):
                    if lane == Lane.IMPORT and _older(resource, unfinished):
                        continue  # imports into one data set take effect in their order
                    if resource.owner:
                        logger.warning("%s: its worker is gone; begun again", resource.arn)
                    taken = replace(lifecycle.begun(resource), owner=name)
                    records.save(taken)
                    self._held.add(taken.arn)
                    logger.info("%s: %s", taken.arn, taken.status)
                    return taken
        return None

    def _lane(self, resource: Resource) -> Lane:
        return self._kinds[resource.kind].lane if lifecycle.is_creating(resource) else Lane.QUICK

    def _free(self, resource: Resource) -> bool:
        if resource.owner is None:
            waited = time.time() - resource.updated
            # From a time to come: the clock was set back, which is no reason to wait until then.
            return not 0 <= waited < self._pace.pending_seconds(self._lane(resource))
        if self._owner and resource.owner == self._owner.name:
            return resource.arn not in self._held
        return not is_alive(self._home.owners, resource.owner)

    def _do(self, resource: Resource) -> None:
        kind = self._kinds[resource.kind]
        job = Job(resource, self._catalog, self._home, self._store, lambda: self._closing)
        try:
            if lifecycle.is_deleting(resource):
                self._delete(kind, resource)
                return
            outcome = lifecycle.perform(kind, job, self._pace.in_progress_seconds(kind.lane))
        except ClosingError:
            return
        with self._catalog.writing() as records:
            current = self._mine(records, resource)
            if current is None:
                return
            saved = outcome.apply(records, current)
            records.save(replace(saved, owner=None))
        reason = saved.body.get("failureReason")
        logger.info("%s: %s%s", saved.arn, saved.status, f" ({reason})" if reason else "")
        outcome.after()

    def _delete(self, kind: Kind, resource: Resource) -> None:
        # Files first: should this process die in between, the deletion is done again.
        with self._catalog.reading() as records:
            paths = kind.files(records, resource)
        for path in paths:
            remove(self._home.root / path)
        with self._catalog.writing() as records:
            if self._mine(records, resource):
                kind.delete_children(records, resource)
                records.remove(resource.arn)

    def _mine(self, records: Records, resource: Resource) -> Resource | None:
        current = records.find(resource.arn)
        owned = current is not None and self._owner and current.owner == self._owner.name
        return current if owned else None


def _older(resource: Resource, unfinished: list[Resource]) -> bool:
    return any(
        other.kind == resource.kind and other.parent == resource.parent and other.seq < resource.seq
        for other in unfinished
    )


def _close(worker: weakref.ref[Worker]) -> None:
    if found := worker():
        found.close()
