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

from batchrec_dagster.storage.object_store import ObjectStore

from ..catalog.catalog import CREATING, DELETING, Catalog, Records, Resource, Status
from ..catalog.home import Home, Owner, is_alive, remove, remove_dead_owners
from ..catalog.kinds import CatalogKind, Lane
from ..errors import CatalogError
from .job import ClosingError, Job, logger, perform, start

_MINUTES = {Lane.QUICK: 1.0, Lane.IMPORT: 8.0, Lane.TRAINING: 20.0, Lane.INFERENCE: 30.0}
_SHARE_PENDING = 0.25  # of the time from the request to ACTIVE


@dataclass(frozen=True)
class Pace:
    """The least share of the time on AWS that jobs take here: 0 for no delay, 1 for all of it."""

    aws_time_share: float = 0.0

    def pending_seconds(self, lane: Lane) -> float:
        """The least time between the request and the start of the job."""
        return self._seconds(lane) * _SHARE_PENDING

    def in_progress_seconds(self, lane: Lane) -> float:
        """The least time that a job runs."""
        return self._seconds(lane) * (1 - _SHARE_PENDING)

    def _seconds(self, lane: Lane) -> float:
        return 60 * _MINUTES[lane] * self.aws_time_share


def remove_orphans(catalog: Catalog, home: Home) -> None:
    """Remove files that belong to no resource and to no unfinished job."""
    remove_dead_owners(home.owners)
    # Listed before the catalog is read, which then names every file finished in between.
    paths = [
        path for folder in (home.datasets, home.models, home.batches) for path in folder.iterdir()
    ]
    if not paths:
        return
    with catalog.reading() as records:
        named = {home.root / path for resource in records.all() for path in resource.files}
        unfinished = tuple(home.attempts_prefix(resource.arn) for resource in records.unfinished())
    for path in paths:
        if path not in named and not path.name.startswith(unfinished):
            remove(path)


# How long an ending interpreter waits for jobs to reach a checkpoint.
CLOSE_SECONDS = 3.0


class Worker:
    """Runs jobs in this process: one thread for each lane that has some."""

    def __init__(
        self,
        catalog: Catalog,
        home: Home,
        store: ObjectStore,
        kinds: Mapping[str, CatalogKind],
        pace: Pace,
    ) -> None:
        self._catalog, self._home, self._store, self._kinds = catalog, home, store, kinds
        self._pace = pace
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: dict[Lane, threading.Thread] = {}
        self._requested: set[Lane] = set()
        self._claimed: set[str] = set()
        self._owner: Owner | None = None
        self._failure: CatalogError | None = None
        self._closing = False
        remove_orphans(catalog, home)
        atexit.register(_close, weakref.ref(self))

    def wake(self) -> None:
        """Start threads for the lanes with claimable jobs; returns at once."""
        if self._closing:
            return
        with self._catalog.reading() as records:
            unfinished = records.unfinished()
        for lane in {
            self._lane(resource) for resource in unfinished if self._is_claimable(resource)
        }:
            self._start_lane(lane)

    def raise_failure(self) -> None:
        """Raise the CatalogError that stopped a lane, once: a client would wait for its jobs."""
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Claim no more jobs; running ones stop at their next checkpoint, for other workers."""
        if self._pid != os.getpid():
            return  # A forked child that exits must not give up its parent's work.
        self._closing = True
        until = time.monotonic() + seconds
        for thread in list(self._threads.values()):
            thread.join(max(0.0, until - time.monotonic()))
        if self._owner and not self._threads:
            self._owner.close()

    def _start_lane(self, lane: Lane) -> None:
        with self._lock:
            self._requested.add(lane)
            if lane not in self._threads:
                thread = threading.Thread(
                    target=self._work, args=(lane,), name=f"personalize-{lane}", daemon=True
                )
                self._threads[lane] = thread
                thread.start()

    def _work(self, lane: Lane) -> None:
        while True:
            with self._lock:
                if lane not in self._requested or self._closing:
                    del self._threads[lane]
                    return
                self._requested.discard(lane)
            try:
                while not self._closing and (resource := self._claim(lane)):
                    try:
                        self._run(resource)
                    finally:
                        self._claimed.discard(resource.arn)
            except CatalogError as error:
                # A full disk, for example. The jobs stay queued: the request after the one that
                # reports this starts the lane again.
                with self._lock:
                    self._failure = error
            except Exception:
                logger.exception("the %s lane of the local Personalize failed", lane)

    def _claim(self, lane: Lane) -> Resource | None:
        with self._lock:
            if self._owner is None:
                self._owner = Owner(self._home.owners)
            name = self._owner.name
        with self._catalog.writing() as records:
            unfinished = records.unfinished()
            for resource in unfinished:
                if self._lane(resource) == lane and self._is_claimable(resource):
                    if lane == Lane.IMPORT and _waits_for_older_import(resource, unfinished):
                        continue  # imports into one dataset take effect in order
                    if resource.owner:
                        logger.warning(
                            "%s: its worker has ended; starting the job again", resource.arn
                        )
                    claimed = replace(start(resource), owner=name)
                    records.save(claimed)
                    self._claimed.add(claimed.arn)
                    logger.info("%s: %s", claimed.arn, claimed.status)
                    return claimed
        return None

    def _lane(self, resource: Resource) -> Lane:
        creating = resource.status in (*CREATING, Status.CREATE_STOPPING)
        return self._kinds[resource.kind].lane if creating else Lane.QUICK

    def _is_claimable(self, resource: Resource) -> bool:
        if resource.owner is None:
            waited = time.time() - resource.updated
            # Negative when the clock was set back, which is no reason to wait.
            return not 0 <= waited < self._pace.pending_seconds(self._lane(resource))
        if self._owner and resource.owner == self._owner.name:
            return resource.arn not in self._claimed
        return not is_alive(self._home.owners, resource.owner)

    def _run(self, resource: Resource) -> None:
        kind = self._kinds[resource.kind]
        job = Job(resource, self._catalog, self._home, self._store, lambda: self._closing)
        try:
            if resource.status in DELETING:
                self._delete(kind, resource)
                return
            outcome = perform(kind, job, self._pace.in_progress_seconds(kind.lane))
        except ClosingError:
            return
        with self._catalog.writing() as records:
            current = self._if_owned(records, resource)
            if current is None:
                return
            saved, replaced = outcome(records, current)
            records.save(replace(saved, owner=None))
        reason = saved.body.get("failureReason")
        logger.info("%s: %s%s", saved.arn, saved.status, f" ({reason})" if reason else "")
        for path in replaced:
            remove(path)

    def _delete(self, kind: CatalogKind, resource: Resource) -> None:
        with self._catalog.reading() as records:
            owned = records.of_kind(kind.owns, parent=resource.arn) if kind.owns else []
        # Files first: if this process dies in between, another deletes again.
        for path in [path for each in (resource, *owned) for path in each.files]:
            remove(self._home.root / path)
        with self._catalog.writing() as records:
            if self._if_owned(records, resource):
                for each in (*owned, resource):
                    records.remove(each.arn)

    def _if_owned(self, records: Records, resource: Resource) -> Resource | None:
        current = records.find(resource.arn)
        owned = current is not None and self._owner and current.owner == self._owner.name
        return current if owned else None


def _waits_for_older_import(resource: Resource, unfinished: list[Resource]) -> bool:
    return any(
        other.kind == resource.kind and other.parent == resource.parent and other.seq < resource.seq
        for other in unfinished
    )


def _close(reference: weakref.ref[Worker]) -> None:
    if worker := reference():
        worker.close()
