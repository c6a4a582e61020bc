"""How an asset runs its step: alone, not again while all that it is made of is the same, and with
the step's verdicts reported as asset checks.

An asset reports its checks before it hands over its value, so that a value that fails is not
stored.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.checks import CheckResult, FailedChecksError
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.lease import Lease
from batchrec_dagster.storage.object_store import StorageError

Result = TypeVar("Result")


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


def run_step(step: Callable[[], Result]) -> Generator[dg.AssetCheckResult, None, Result]:
    """The step's result; if its checks fail, these checks and dg.Failure."""
    try:
        return step()
    except FailedChecksError as error:
        failed = error
    # Outside of the except block, so that the UI shows the failure alone.
    yield from stopped(failed.checks)
    raise failed


def published(
    checks: Sequence[CheckResult], result: dg.MaterializeResult[Any]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
    """The asset's result with its checks; if a check blocks, only the checks, and dg.Failure, so
    that the value is not stored."""
    yield from stopped(checks)
    yield result._replace(check_results=results(checks))


def stopped(checks: Sequence[CheckResult]) -> Iterator[dg.AssetCheckResult]:
    """The checks and dg.Failure if one of them blocks, else nothing."""
    failed = [check for check in checks if check.blocks]
    if failed:
        yield from results(checks)
        raise dg.Failure(
            "; ".join(f"{check.name}: {check.found}" for check in failed), allow_retries=False
        )


def results(checks: Sequence[CheckResult]) -> list[dg.AssetCheckResult]:
    """The verdicts as Dagster takes them."""
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity[check.severity.upper()],
            description=escape(check.found),
            metadata=check.numbers,
        )
        for check in checks
    ]


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


def exclusive_step(pipeline: Pipeline, asset: str = "") -> Callable[[Step], Step]:
    """Decorate an asset's function that takes `context` and `personalize`: it runs under a lease.

    What the function yields reaches Dagster after the lease is released: Dagster does not close a
    suspended generator when a later step fails, and it would keep the lease. The function itself
    must store what has to be stored under the lease.
    """

    def decorate(step: Step) -> Step:
        name = asset or step.__name__

        @wraps(step)
        def exclusive(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[Any]:
            results: list[Any] = []
            try:
                with leased(pipeline, name, context, inputs["personalize"]):
                    for result in results_of(step(context, **inputs)):
                        results.append(result)
            finally:
                yield from results

        return exclusive  # type: ignore[return-value]

    return decorate


def results_of(done: Any) -> Iterator[Any]:
    """What an asset's function yields, or the one result that it returns."""
    if inspect.isgenerator(done):
        yield from done
    else:
        yield done


# The metadata of a result that can be reused.
MADE_OF = "batchrec/made_of"
# The outcome of most such assets.
PREPARED_BEFORE = "unchanged: not prepared again"
# Metadata that the IO managers add again.
ADDED = ("dagster/uri",)


def personalize_work(
    pipeline: Pipeline, context: dg.AssetExecutionContext, personalize: PersonalizeResource
) -> PersonalizeWork:
    """What a step in Personalize works with."""
    ensure = personalize.ensure(context.log, pipeline.tags)
    return PersonalizeWork(pipeline, personalize.storage, ensure)


@dataclass(frozen=True)
class MadeOf:
    """What an asset is made of in this run: its code version, which has its settings, and `inputs`,
    the versions of the rest.

    The asset puts `metadata` into its result; a later run with `earlier` need not make it again.
    """

    context: dg.AssetExecutionContext
    inputs: tuple[str, ...]

    def metadata(self, version: str, checks: Sequence[CheckResult] = ()) -> dict[str, Any]:
        """For the result that is stored with this version, and its checks."""
        made_of = [self._fingerprint(version), [check.to_json() for check in checks]]
        return {MADE_OF: json.dumps(made_of)}

    def earlier(
        self,
        stored: Callable[[], str | None],
        value: Any,
        outcome: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> dg.MaterializeResult[Any] | None:
        """The newest result in Dagster's history with its checks, if it was made of the same and is
        still stored; else None.

        stored: reads the version of what is stored now, None if that is unknown; metadata: what
        replaces the result's.
        """
        key = self.context.asset_key
        event = self.context.instance.get_latest_materialization_event(key)
        found = event.asset_materialization if event else None
        if found is None or (made_of := found.metadata.get(MADE_OF)) is None:
            return None
        known, verdicts = json.loads(str(made_of.value))
        version = None
        # Missing or damaged, for example: it is made again.
        with suppress(StorageError, ValueError, pl.exceptions.PolarsError):
            version = stored()
        if version is None or known != self._fingerprint(version):
            return None
        kept = {name: shown for name, shown in found.metadata.items() if name not in ADDED}
        return dg.MaterializeResult(
            value=value,
            data_version=dg.DataVersion(version),
            metadata={**kept, "outcome": outcome, **(metadata or {})},
            check_results=results([CheckResult.from_json(one) for one in verdicts]),
        )

    def _fingerprint(self, version: str) -> str:
        code = self.context.assets_def.specs_by_key[self.context.asset_key].code_version
        return fingerprint(code, *self.inputs, version)
