"""The run of an asset's step, with the pipeline, storage and Personalize that the step needs.

A step stores its results itself, so it hands no value to Dagster's IO managers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from botocore.exceptions import ClientError

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.api import is_temporary
from batchrec_dagster.pipeline.expected_failure import (
    INTERRUPTS,
    ExpectedFailure,
    Interrupted,
    make_failure,
)
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.record_night import forget_failure, record_failure
from batchrec_dagster.pipeline.results import AssetResult, build_check_results
from batchrec_dagster.pipeline.run_history import find_run_start
from batchrec_dagster.steps.work import PersonalizeWork, Work
from batchrec_dagster.storage.layout import ListFiles, ListKeys

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.declare_asset import PipelineAsset

# A function that runs a step with its inputs bound, such as `BatchRecommendations.execute`.
Execute = Callable[
    ["PipelineAsset", dg.AssetExecutionContext, Callable[[], dg.MaterializeResult[Any]]],
    Iterator[AssetResult],
]


def run_step(
    asset: PipelineAsset,
    execute: Execute,
    context: dg.AssetExecutionContext,
    inputs: Mapping[str, Any],
) -> Iterator[AssetResult]:
    """Run the step of an asset, and record its failure among the list's nights.

    If a retry of a failed step succeeds, the record of the failure is deleted.

    Errors that tell the user what to do fail the asset without a traceback. Such errors are also
    logged: Dagster's page shows failures as events, and its view of a step's log messages hides
    events. Checks that fail in the step are reported before they fail the asset.

    Dagster applies the asset's retry policy only to a `Retry` and to bugs.

    inputs: the step's config, if it has one, and its inputs.
    """
    files = ListFiles(context.resources.batchrec_storage.opened, ListKeys(asset.address))
    try:
        yield from execute(asset, context, partial(asset.step, context, **inputs))
    except BaseException as error:
        record_failure(context, files, error)
        if isinstance(error, INTERRUPTS):
            raise Interrupted from error
        if isinstance(error, ClientError) and not is_temporary(error):
            # Only a person can fix such an error. For example, a permission is missing.
            raise dg.Failure(str(error), allow_retries=False) from error
        findings = error.findings if isinstance(error, Refused) else ()
        failure = _find_failure(error, find_retry_policy(context))
        if failure is None:
            raise
        cause = error.__cause__ if isinstance(error, dg.Failure) else None
    else:
        forget_failure(context, files)
        return
    # The raise is outside of the except block, so that the UI shows only the message.
    yield from build_check_results(findings)
    context.log.error(failure.description or "")
    raise failure from cause


def find_retry_policy(context: dg.AssetExecutionContext) -> dg.RetryPolicy | None:
    """Return the policy by which Dagster retries the step: the asset's, or else its job's."""
    policy: dg.RetryPolicy | None = context.get_step_execution_context().op_retry_policy
    return policy


def _find_failure(error: BaseException, retry_policy: dg.RetryPolicy | None) -> dg.Failure | None:
    """Return the failure that says how to fix the error; None if the error is a bug."""
    if isinstance(error, Refused):
        blocking = [finding for finding in error.findings if finding.blocks]
        return ExpectedFailure("\n".join(f"{finding.name}: {finding.text}" for finding in blocking))
    if isinstance(error, UserError):
        return make_failure(error, retry_policy)
    if isinstance(error, dg.Failure) and not error.allow_retries:
        return ExpectedFailure(error.description or "", error.metadata)
    return None


def get_work(pipeline: Pipeline, context: dg.AssetExecutionContext) -> Work:
    """Return the pipeline with its storage. Raises UserError if the asset is partitioned."""
    _refuse_partitions(pipeline, context)
    return Work(pipeline, context.resources.batchrec_storage.opened)


def get_personalize_work(pipeline: Pipeline, context: dg.AssetExecutionContext) -> PersonalizeWork:
    """Return the pipeline with its storage and Personalize.

    Raises UserError if the asset is partitioned.
    """
    _refuse_partitions(pipeline, context)
    personalize: PersonalizeResource = context.resources.batchrec_personalize
    # The deadline is for the whole run, however many steps and resources it waits for.
    start = find_run_start(context)
    # Dagster notes the start by the same clock. If the clock was set back since, count no time as
    # passed.
    seconds = 0.0 if start is None else max(0.0, time.time() - start.timestamp())
    ensure = personalize.ensure(context.log, pipeline.tags, seconds)
    return PersonalizeWork(pipeline, personalize.storage.opened, ensure, personalize.read_prices())


def _refuse_partitions(pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
    # Every partition would contain the same lists, made from all ratings.
    if context.assets_def.partitions_def is not None:
        raise UserError(
            f"{pipeline.name} has no partitions: each run makes the lists of all ratings. Remove"
            " partitions_def from its post_processing; to use part of the ratings, set"
            " interactions.window"
        )
