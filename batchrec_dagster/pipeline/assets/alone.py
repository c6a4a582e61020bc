"""One run at a time works at a step in Personalize; another waits, and then finds it done."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar

import dagster as dg

from batchrec_dagster.pipeline.settings import Pipeline
from batchrec_dagster.resources import PersonalizeResource
from batchrec_dagster.resources.lease import Lease

Step = TypeVar("Step", bound=Callable[..., Any])


def leased(
    pipeline: Pipeline,
    asset: str,
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    personalize: PersonalizeResource,
) -> AbstractContextManager[None]:
    """This run's hold on the asset's step."""
    storage = personalize.storage
    return Lease(
        store=storage.store,
        folder=storage.uri(pipeline.places.lease(asset)),
        owner=context.run_id,
        log=context.log,
        deadline_seconds=personalize.deadline_hours * 3600,
    ).held()


def alone(pipeline: Pipeline) -> Callable[[Step], Step]:
    """A decorator of an asset's function that takes `context` and `personalize`."""

    def decorate(step: Step) -> Step:
        name = step.__name__

        @wraps(step)
        def returning(context: dg.AssetExecutionContext, **inputs: Any) -> Any:
            with leased(pipeline, name, context, inputs["personalize"]):
                return step(context, **inputs)

        @wraps(step)
        def yielding(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[Any]:
            with leased(pipeline, name, context, inputs["personalize"]):
                yield from step(context, **inputs)

        chosen: Any = yielding if inspect.isgeneratorfunction(step) else returning
        return chosen  # type: ignore[no-any-return]

    return decorate
