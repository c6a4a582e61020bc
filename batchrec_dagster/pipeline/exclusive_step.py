"""One run at a time works on an asset's step in Personalize; others wait, then reuse its result."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.steps.publishing import storage_errors
from batchrec_dagster.storage.lease import Lease

Step = TypeVar("Step", bound=Callable[..., Any])


def leased(
    pipeline: Pipeline,
    asset: str,
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    personalize: PersonalizeResource,
) -> AbstractContextManager[None]:
    """Hold the lease on the asset's step for this run."""
    storage = personalize.storage
    return Lease(
        store=storage.store,
        folder=storage.uri(pipeline.places.lease(asset)),
        owner=context.run.run_id,
        log=context.log,
        deadline_seconds=personalize.deadline_hours * 3600,
    ).held()


def exclusive_step(pipeline: Pipeline) -> Callable[[Step], Step]:
    """Decorate an asset's function that takes `context` and `personalize`: it runs under a lease.

    What the function yields reaches Dagster after the lease is released: Dagster does not close a
    suspended generator when a later step fails, and it would keep the lease. The function itself
    must store what has to be stored under the lease.
    """

    def decorate(step: Step) -> Step:
        name = step.__name__

        @wraps(step)
        def returning(context: dg.AssetExecutionContext, **inputs: Any) -> Any:
            with storage_errors(), leased(pipeline, name, context, inputs["personalize"]):
                return step(context, **inputs)

        @wraps(step)
        def yielding(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[Any]:
            results: list[Any] = []
            try:
                with storage_errors(), leased(pipeline, name, context, inputs["personalize"]):
                    for result in step(context, **inputs):
                        results.append(result)
            finally:
                yield from results

        chosen: Any = yielding if inspect.isgeneratorfunction(step) else returning
        return chosen  # type: ignore[no-any-return]

    return decorate
