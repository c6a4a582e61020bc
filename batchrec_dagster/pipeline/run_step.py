"""The asset of a declared step in Dagster, and the run of the step.

A step stores its results itself, so it hands no value to Dagster's IO managers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from typing import Any

import dagster as dg
from botocore.exceptions import ClientError

from batchrec_dagster.config.running import Retries
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.api import is_temporary
from batchrec_dagster.pipeline.declare_asset import PipelineAsset
from batchrec_dagster.pipeline.expected_failure import (
    INTERRUPTS,
    ExpectedFailure,
    Interrupted,
    make_failure,
)
from batchrec_dagster.pipeline.record_night import forget_failure, record_failure
from batchrec_dagster.pipeline.results import AssetResult, build_check_results
from batchrec_dagster.storage.layout import ListKeys

# A function that runs a step with its inputs bound, such as `BatchRecommendations.execute`.
Execute = Callable[
    [PipelineAsset, dg.AssetExecutionContext, Callable[[], dg.MaterializeResult[Any]]],
    Iterator[AssetResult],
]


def build_asset(asset: PipelineAsset, spec: dg.AssetSpec, execute: Execute) -> dg.AssetsDefinition:
    """Return Dagster's asset, which runs the step.

    spec: the spec of this asset, which a subclass of BatchRecommendations may have changed, except
        the key. The metadata of this asset's own spec is kept, because the IO manager reads it.
    """
    spec = spec.merge_attributes(metadata=asset.spec.metadata)

    @wraps(asset.step)
    def run(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[AssetResult]:
        yield from run_step(asset, execute, context, inputs)

    build = dg.multi_asset(
        name=asset.spec.key.to_python_identifier(),
        specs=[spec],
        check_specs=asset.checks,
        ins=asset.inputs,
        required_resource_keys=asset.resources,
        op_tags=asset.op.tags,
        pool=asset.op.pool,
        retry_policy=_make_retry_policy(asset.op.retries),
    )
    return build(run)


def _make_retry_policy(retries: Retries | None) -> dg.RetryPolicy | None:
    if retries is None:
        return None
    return dg.RetryPolicy(retries.max_retries, retries.delay_seconds, dg.Backoff.EXPONENTIAL)


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
    """Return the step's retry policy in Dagster: the asset's, or else its job's."""
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
