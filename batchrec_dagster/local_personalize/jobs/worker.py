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

from ..catalog.catalog import Catalog, CatalogTransaction
from ..catalog.home import Home, remove_path
from ..catalog.kinds import CatalogKind, JobQueue
from ..catalog.owners import OwnerLock, is_owner_alive, remove_dead_owners
from ..catalog.resource import CREATING, DELETING, Resource, Status
from ..errors import CatalogError
from .job import ClosingError, Job, logger, mark_started, run_job

_AWS_MINUTES = {
    JobQueue.QUICK: 1.0,
    JobQueue.IMPORT: 8.0,
    JobQueue.TRAINING: 20.0,
    JobQueue.INFERENCE: 30.0,
}
_SHARE_PENDING = 0.25  # of the time from the request to ACTIVE


@dataclass(frozen=True)
class JobPace:
    """The least share of the time on AWS that jobs take here: 0 for no delay, 1 for all of it."""

    aws_time_share: float = 0.0

    def pending_seconds(self, queue: JobQueue) -> float:
        """The least time between the request and the start of the job."""
        return self._seconds(queue) * _SHARE_PENDING

    def in_progress_seconds(self, queue: JobQueue) -> float:
        """The least time that a job runs."""
        return self._seconds(queue) * (1 - _SHARE_PENDING)

    def _seconds(self, queue: JobQueue) -> float:
        return 60 * _AWS_MINUTES[queue] * self.aws_time_share


def remove_orphans(catalog: Catalog, home: Home) -> None:
    """Remove files that belong to no resource and to no unfinished job."""
    remove_dead_owners(home.owners)
    # Listed before the catalog is read, which then names every file finished in between.
    paths = [
        path for folder in (home.datasets, home.models, home.batches) for path in folder.iterdir()
    ]
    if not paths:
        return
    with catalog.open_for_reading() as transaction:
        named = {home.root / path for resource in transaction.list_all() for path in resource.files}
        unfinished = tuple(
            home.make_attempt_prefix(resource.arn) for resource in transaction.list_unfinished()
        )
    for path in paths:
        if path not in named and not path.name.startswith(unfinished):
            remove_path(path)


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
        pace: JobPace,
    ) -> None:
        self._catalog, self._home, self._store, self._kinds = catalog, home, store, kinds
        self._pace = pace
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._threads: dict[JobQueue, threading.Thread] = {}
        self._queues_to_check: set[JobQueue] = set()
        self._claimed_arns: set[str] = set()
        self._owner: OwnerLock | None = None
        self._failure: CatalogError | None = None
        self._closing = False
        remove_orphans(catalog, home)
        atexit.register(_close, weakref.ref(self))

    def wake(self) -> None:
        """Start threads for the lanes with claimable jobs; returns at once."""
        if self._closing:
            return
        with self._catalog.open_for_reading() as transaction:
            unfinished = transaction.list_unfinished()
        for queue in {
            self._find_queue(resource) for resource in unfinished if self._is_claimable(resource)
        }:
            self._start_thread(queue)

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

    def _start_thread(self, queue: JobQueue) -> None:
        with self._lock:
            self._queues_to_check.add(queue)
            if queue not in self._threads:
                thread = threading.Thread(
                    target=self._run_queue, args=(queue,), name=f"personalize-{queue}", daemon=True
                )
                self._threads[queue] = thread
                thread.start()

    def _run_queue(self, queue: JobQueue) -> None:
        while True:
            with self._lock:
                if queue not in self._queues_to_check or self._closing:
                    del self._threads[queue]
                    return
                self._queues_to_check.discard(queue)
            try:
                while not self._closing and (resource := self._claim_job(queue)):
                    try:
                        self._run_job(resource)
                    finally:
                        self._claimed_arns.discard(resource.arn)
            except CatalogError as error:
                # A full disk, for example. The jobs stay queued: the request after the one that
                # reports this starts the lane again.
                with self._lock:
                    self._failure = error
            except Exception:
                logger.exception("the %s lane of the local Personalize failed", queue)

    def _claim_job(self, queue: JobQueue) -> Resource | None:
        with self._lock:
            if self._owner is None:
                self._owner = OwnerLock(self._home.owners)
            name = self._owner.name
        with self._catalog.open_for_writing() as transaction:
            unfinished = transaction.list_unfinished()
            for resource in unfinished:
                if self._find_queue(resource) == queue and self._is_claimable(resource):
                    if queue == JobQueue.IMPORT and _waits_for_older_import(resource, unfinished):
                        continue  # imports into one dataset take effect in order
                    if resource.owner:
                        logger.warning(
                            "%s: its worker has ended; starting the job again", resource.arn
                        )
                    claimed = replace(mark_started(resource), owner=name)
                    transaction.save(claimed)
                    self._claimed_arns.add(claimed.arn)
                    logger.info("%s: %s", claimed.arn, claimed.status)
                    return claimed
        return None

    def _find_queue(self, resource: Resource) -> JobQueue:
        creating = resource.status in (*CREATING, Status.CREATE_STOPPING)
        return self._kinds[resource.kind].queue if creating else JobQueue.QUICK

    def _is_claimable(self, resource: Resource) -> bool:
        if resource.owner is None:
            waited = time.time() - resource.updated
            # Negative when the clock was set back, which is no reason to wait.
            return not 0 <= waited < self._pace.pending_seconds(self._find_queue(resource))
        if self._owner and resource.owner == self._owner.name:
            return resource.arn not in self._claimed_arns
        return not is_owner_alive(self._home.owners, resource.owner)

    def _run_job(self, resource: Resource) -> None:
        kind = self._kinds[resource.kind]
        job = Job(resource, self._catalog, self._home, self._store, lambda: self._closing)
        try:
            if resource.status in DELETING:
                self._delete(kind, resource)
                return
            outcome = run_job(kind, job, self._pace.in_progress_seconds(kind.queue))
        except ClosingError:
            return
        with self._catalog.open_for_writing() as transaction:
            current = self._find_if_owned(transaction, resource)
            if current is None:
                return
            saved, replaced = outcome(transaction, current)
            transaction.save(replace(saved, owner=None))
        reason = saved.body.get("failureReason")
        logger.info("%s: %s%s", saved.arn, saved.status, f" ({reason})" if reason else "")
        for path in replaced:
            remove_path(path)

    def _delete(self, kind: CatalogKind, resource: Resource) -> None:
        with self._catalog.open_for_reading() as transaction:
            owned = (
                transaction.list_resources(kind.owned_kind, parent=resource.arn)
                if kind.owned_kind
                else []
            )
        # Files first: if this process dies in between, another deletes again.
        for path in [path for each in (resource, *owned) for path in each.files]:
            remove_path(self._home.root / path)
        with self._catalog.open_for_writing() as transaction:
            if self._find_if_owned(transaction, resource):
                for each in (*owned, resource):
                    transaction.remove(each.arn)

    def _find_if_owned(
        self, transaction: CatalogTransaction, resource: Resource
    ) -> Resource | None:
        current = transaction.find(resource.arn)
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
