"""The context of a step, opened from the context that Dagster gives to an asset."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.run_history import find_root_run, find_run_start
from batchrec_dagster.steps.context import Run, StepContext

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource


def open_step(
    pipeline: Pipeline, context: dg.AssetExecutionContext, *, publish_anyway: bool = False
) -> StepContext:
    """Return the context of a step: the pipeline, its storage, the run, and Personalize.

    Only a step of an asset that is declared with `on_personalize=True` gets Personalize.

    publish_anyway: whether the run publishes even if a gate fails.

    Raises UserError if the asset is partitioned.
    """
    _refuse_partitions(pipeline, context)
    start = find_run_start(context)
    run = Run(context.run.run_id, find_root_run(context), start, publish_anyway)
    storage = context.resources.batchrec_storage.opened
    personalize: PersonalizeResource | None = getattr(
        context.resources, "batchrec_personalize", None
    )
    if personalize is None:
        return StepContext(pipeline, storage, run)
    # The deadline is for the whole run, however many steps and resources it waits for. Dagster
    # notes the start by the same clock. If the clock was set back since, count no time as passed.
    seconds = 0.0 if start is None else max(0.0, time.time() - start.timestamp())
    resources = personalize.open_resources(context.log, pipeline.tags, seconds)
    return StepContext(pipeline, storage, run, resources, personalize.read_prices())


def _refuse_partitions(pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
    # Every partition would contain the same lists, made from all ratings.
    if context.assets_def.partitions_def is not None:
        raise UserError(
            f"{pipeline.name} has no partitions: each run makes the lists of all ratings. Remove"
            " partitions_def from its post_processing; to use part of the ratings, set"
            " interactions.window"
        )
