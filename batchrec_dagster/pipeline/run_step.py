"""How an asset runs its step, and how Dagster takes what the step has made.

A step stores what it makes, so no asset hands over a value. A check that fails is reported before
it fails the asset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.api import PersonalizeError
from batchrec_dagster.pipeline.expected_failure import (
    ExpectedFailure,
    failures_without_stack,
)
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.run_endings import (
    find_run_start,
    forget_failure,
    record_failure,
)
from batchrec_dagster.reporting.markdown import escape, unescape
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.work import PersonalizeWork, Result, Work
from batchrec_dagster.storage.edition import Finding

# What an asset's step gives to Dagster.
AssetResult = dg.MaterializeResult[Any] | dg.AssetCheckResult
# An asset's step: a function of its context, its config if it has one, and its inputs.
Step = Callable[..., dg.MaterializeResult[Any]]
# What runs a step that has all that it needs, as `BatchRecommendations.execute` does.
Execute = Callable[
    [str, dg.AssetExecutionContext, Callable[[], dg.MaterializeResult[Any]]],
    Iterator[AssetResult],
]

# Significant digits of numbers in metadata. The records keep what is exact.
DIGITS = 4


@contextmanager
def expected_errors_as_failures() -> Iterator[None]:
    """Raises dg.Failure with the message of a UserError, so that no traceback is shown."""
    try:
        yield
    except UserError as error:
        details = error.details if isinstance(error, PersonalizeError) else {}
        raise dg.Failure(str(error), metadata=details, allow_retries=False) from error


@contextmanager
def recorded_ending(context: dg.AssetExecutionContext) -> Iterator[None]:
    """A step whose error is recorded in the storage as the end of its run."""
    try:
        yield
    except BaseException as error:
        record_failure(context, error)
        raise
    forget_failure(context)


@contextmanager
def logged_failures(context: dg.AssetExecutionContext) -> Iterator[None]:
    """A step whose failure is an error in the log too.

    Dagster's page shows events of failures as events, and hides them where only what the steps say
    is shown.
    """
    try:
        yield
    except dg.Failure as failure:
        context.log.error(failure.description or "")
        raise


def build_body(name: str, step: Step, execute: Execute) -> Callable[..., Iterator[AssetResult]]:
    """The body of an asset: its step, and what all steps have in common when they run.

    Errors that tell the user what to do fail the asset without a traceback. Checks that fail in the
    step are reported before they fail the asset. Numbers in the metadata are rounded. The log says
    in a line why the step failed.

    name: the asset's, for `execute`.
    """

    @wraps(step)
    def run(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[AssetResult]:
        start = time.monotonic()
        failed_checks: Refused | None = None
        try:
            with (
                failures_without_stack(),
                logged_failures(context),
                recorded_ending(context),
                expected_errors_as_failures(),
            ):
                for result in execute(name, context, partial(step, context, **inputs)):
                    yield round_metadata(result, time.monotonic() - start)
        except Refused as error:
            failed_checks = error
        # Outside of the except block, so that the UI shows the message alone.
        if failed_checks is not None:
            results = check_results(failed_checks.findings)
            yield from results
            blocking = {check.name for check in failed_checks.findings if check.blocks}
            message = "\n".join(
                f"{result.check_name}: {unescape(result.description or '')}"
                for result in results
                if result.check_name in blocking
            )
            context.log.error(message)
            raise ExpectedFailure(message)

    return run


def round_metadata(result: AssetResult, seconds: float) -> AssetResult:
    """An asset's result with its seconds, with rounded numbers, and without empty metadata.

    seconds: how long the asset took, with any wait for another run's lock.
    """
    if not isinstance(result, dg.MaterializeResult) or result.metadata is None:
        return result
    rounded = {
        key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
        for key, value in {**result.metadata, "seconds": seconds}.items()
        if not (isinstance(value, str | list | dict) and not value)
    }
    return result._replace(metadata=rounded)


def get_work(pipeline: Pipeline, context: dg.AssetExecutionContext) -> Work:
    """The pipeline with its storage. Raises dg.Failure for a partition of the asset."""
    _refuse_partitions(pipeline, context)
    return Work(pipeline, context.resources.batchrec_storage.opened)


def get_personalize_work(pipeline: Pipeline, context: dg.AssetExecutionContext) -> PersonalizeWork:
    """The pipeline with its storage and Personalize. Raises dg.Failure for a partition of the
    asset."""
    _refuse_partitions(pipeline, context)
    personalize: PersonalizeResource = context.resources.batchrec_personalize
    # The deadline is one for the run, however many steps and resources it waits for.
    start = find_run_start(context)
    # By the clock that Dagster notes the start with. If it was set back since, nothing has passed.
    seconds = 0.0 if start is None else max(0.0, time.time() - start.timestamp())
    ensure = personalize.ensure(context.log, pipeline.tags, seconds)
    return PersonalizeWork(pipeline, personalize.storage.opened, ensure, personalize.read_prices())


def _refuse_partitions(pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
    # Every partition would be the same lists of all ratings.
    if context.assets_def.partitions_def is not None:
        raise dg.Failure(
            f"{pipeline.name} has no partitions: each run makes the lists of all ratings. Remove"
            " partitions_def from its post_processing; to use part of the ratings, set"
            " interactions.window",
            allow_retries=False,
        )


def check_specs(
    asset: dg.AssetKey, checks: Mapping[str, str], warnings: Mapping[str, str]
) -> list[dg.AssetCheckSpec]:
    """The specs of an asset's checks.

    checks: what each check that blocks checks, by its name.
    warnings: the same of each check that only warns.
    """
    blocking = [
        dg.AssetCheckSpec(name, asset=asset, description=description, blocking=True)
        for name, description in checks.items()
    ]
    warning = [
        dg.AssetCheckSpec(name, asset=asset, description=description)
        for name, description in warnings.items()
    ]
    return blocking + warning


def check_results(checks: Sequence[Finding]) -> list[dg.AssetCheckResult]:
    """The verdicts as Dagster takes them."""
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.WARN
            if check.level == "watch"
            else dg.AssetCheckSeverity.ERROR,
            description=escape(check.text),
            metadata=check.numbers,
        )
        for check in checks
    ]


# The outcome of an asset whose record says that nothing has changed.
NOT_PREPARED_AGAIN = "unchanged: not prepared again"


def to_dagster(
    version: str, findings: Sequence[Finding], metadata: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    """What a step has made and stored as Dagster takes it, with its checks.

    version: that of the content.
    Raises Refused if a finding blocks, so that the checks are reported and the asset fails.
    """
    require_passed(findings)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version),
        metadata=metadata,
        check_results=check_results(findings),
    )


def result_to_dagster(
    result: Result[Any], uri: str, metadata: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    """The same of a step that is not done again if its record says that nothing has changed.

    uri: where what it has made is stored.
    """
    outcome = {"outcome": NOT_PREPARED_AGAIN} if result.is_unchanged else {}
    described = {"dagster/uri": uri, **outcome, **metadata}
    return to_dagster(result.record.version, result.findings, described)
