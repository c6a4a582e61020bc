"""Runs imports, trainings, inference and the quick work of every kind in the background.

The catalog is the queue. A worker claims a resource by writing its name on it in one transaction,
so nobody else works on it. When the worker's process is gone, another one claims the work and
starts it again. Each attempt writes under its own name, which nobody reads until the transaction
that makes the resource ACTIVE names it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace

from batchrec_dagster.storage.objects import ObjectStore

from ..catalog.catalog import Catalog, CatalogTransaction
from ..catalog.home import Home, remove_path
from ..catalog.kinds import CatalogKind, JobQueue
from ..catalog.owners import OwnerLock, is_owner_alive
from ..catalog.resource import CREATING, DELETING, Resource, Status
from ..errors import CatalogError
from .job import ClosingError, Job, logger
from .order import must_wait
from .orphans import remove_orphans
from .transitions import mark_started, run_job

CLOSE_SECONDS = 3.0
"""How long an ending interpreter waits for jobs to reach a checkpoint."""


class Worker:
    """Runs jobs in this process, in one thread for each queue that has some."""

    def __init__(
        self,
        catalog: Catalog,
        home: Home,
        store: ObjectStore,
        kinds: Mapping[str, CatalogKind],
    ) -> None:
        """Remove what dead processes left, and close this worker when the interpreter ends.

        store: where the S3 objects of requests are.
        kinds: the kinds of resources, by name.
        """
        self._catalog = catalog
        self._home = home
        self._store = store
        self._kinds = kinds
        self._pid = os.getpid()
        # Guards the four values below it, which the threads share.
        self._lock = threading.Lock()
        self._threads: dict[JobQueue, threading.Thread] = {}
        self._queues_to_check: set[JobQueue] = set()
        self._owner: OwnerLock | None = None
        self._failure: CatalogError | None = None
        # The resources that threads of this worker have in hand.
        self._claimed_arns: set[str] = set()
        self._closing = False
        remove_orphans(catalog, home)
        atexit.register(_close_worker, weakref.ref(self))

    def wake(self) -> None:
        """Start threads for the queues with claimable jobs, and return at once.

        Raises CatalogError.
        """
        if self._closing:
            return
        with self._catalog.open_for_reading() as transaction:
            unfinished = transaction.list_unfinished()
        claimable = [resource for resource in unfinished if self._is_claimable(resource)]
        for queue in {self._find_queue(resource) for resource in claimable}:
            self._start_thread(queue)

    def raise_failure(self) -> None:
        """Raise the CatalogError that stopped a queue, if there was one since the last call.

        Without it, a client would wait for jobs that nobody runs.
        """
        with self._lock:
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Claim no more jobs, and wait until the running ones reach their next checkpoint.

        Other workers can then run them again.

        seconds: how long to wait at most.
        """
        if self._pid != os.getpid():
            # A forked child that exits must not give up its parent's work.
            return
        self._closing = True
        deadline = time.monotonic() + seconds
        for thread in list(self._threads.values()):
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._owner and not self._threads:
            self._owner.close()

    def _start_thread(self, queue: JobQueue) -> None:
        """Start the queue's thread or, if it runs, have it look for jobs once more."""
        with self._lock:
            self._queues_to_check.add(queue)
            if queue not in self._threads:
                thread = threading.Thread(
                    target=self._run_queue, args=(queue,), name=f"personalize-{queue}", daemon=True
                )
                self._threads[queue] = thread
                thread.start()

    def _run_queue(self, queue: JobQueue) -> None:
        """Run jobs of the queue until there are no more. This is what a thread does."""
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
                    # Jobs of other queues may have waited for this one.
                    self.wake()
            except CatalogError as error:
                # A full disk, for example. The jobs stay queued: the request after the one that
                # reports this starts the queue's thread again.
                with self._lock:
                    self._failure = error
            except Exception:
                logger.exception("the queue %r of the local Personalize failed", str(queue))

    def _claim_job(self, queue: JobQueue) -> Resource | None:
        """Make this worker the owner of the oldest job that nobody runs, and return its resource.

        Returns None if the queue has no such job.
        """
        with self._lock:
            if self._owner is None:
                self._owner = OwnerLock(self._home.owners)
            owner = self._owner.name
        with self._catalog.open_for_writing() as transaction:
            unfinished = transaction.list_unfinished()
            for resource in unfinished:
                if self._find_queue(resource) != queue or not self._is_claimable(resource):
                    continue
                if queue != JobQueue.QUICK and must_wait(transaction, resource, unfinished):
                    continue
                if resource.owner:
                    logger.warning("%s: its worker has ended; starting the job again", resource.arn)
                claimed = replace(mark_started(resource), owner=owner)
                transaction.save(claimed)
                self._claimed_arns.add(claimed.arn)
                logger.info("%s: %s", claimed.arn, claimed.status)
                return claimed
        return None

    def _find_queue(self, resource: Resource) -> JobQueue:
        """Return the queue of its job. Deletions are quick for every kind."""
        is_creating = resource.status in (*CREATING, Status.CREATE_STOPPING)
        return self._kinds[resource.kind].queue if is_creating else JobQueue.QUICK

    def _is_claimable(self, resource: Resource) -> bool:
        """Tell whether nobody runs the job."""
        if resource.owner is None:
            return True
        if self._owner and resource.owner == self._owner.name:
            return resource.arn not in self._claimed_arns
        return not is_owner_alive(self._home.owners, resource.owner)

    def _run_job(self, resource: Resource) -> None:
        """Run the claimed job and record how it ended."""
        kind = self._kinds[resource.kind]
        job = Job(resource, self._catalog, self._home, self._store, lambda: self._closing)
        if resource.status in DELETING:
            self._delete(kind, resource)
            return
        try:
            apply_outcome = run_job(kind, job)
        except ClosingError:
            return
        with self._catalog.open_for_writing() as transaction:
            current = self._find_if_owned(transaction, resource)
            if current is None:
                return
            finished, replaced_files = apply_outcome(transaction, current)
            transaction.save(replace(finished, owner=None))
        reason = finished.body.get("failureReason")
        logger.info("%s: %s%s", finished.arn, finished.status, f" ({reason})" if reason else "")
        for path in replaced_files:
            remove_path(path)

    def _delete(self, kind: CatalogKind, resource: Resource) -> None:
        """Delete the resource, its children of the kind that it owns, and the files of all."""
        children: list[Resource] = []
        if kind.owned_kind:
            with self._catalog.open_for_reading() as transaction:
                children = transaction.list_resources(kind.owned_kind, parent=resource.arn)
        # Files first: if this process dies in between, another one deletes again.
        for deleted in (resource, *children):
            for path in deleted.files:
                remove_path(self._home.root / path)
        with self._catalog.open_for_writing() as transaction:
            if self._find_if_owned(transaction, resource):
                for deleted in (*children, resource):
                    transaction.remove(deleted.arn)

    def _find_if_owned(
        self, transaction: CatalogTransaction, resource: Resource
    ) -> Resource | None:
        """Return the resource as the catalog has it, or None if this worker lost its job."""
        current = transaction.find(resource.arn)
        if current is None or self._owner is None or current.owner != self._owner.name:
            return None
        return current


def _close_worker(reference: weakref.ref[Worker]) -> None:
    """Close the worker if it still exists. `atexit` holds a weak reference to it only."""
    worker = reference()
    if worker is not None:
        worker.close()
