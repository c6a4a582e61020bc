"""Reports the verdicts of steps/checks.py to Dagster as asset checks.

An asset reports its checks before it hands over its value, so that a value that fails is not
stored.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

import dagster as dg

from batchrec_dagster.reporting.markdown import escaped
from batchrec_dagster.steps.checks import WARNINGS, Checked, FailedChecksError

Result = TypeVar("Result")


def specs(asset: dg.AssetKey, **checks: str) -> list[dg.AssetCheckSpec]:
    """`name="what it checks"` for each check of an asset; all but warnings are blocking."""
    return [
        dg.AssetCheckSpec(
            name=name,
            asset=asset,
            description=description,
            blocking=name not in WARNINGS,
        )
        for name, description in checks.items()
    ]


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
    checks: Sequence[Checked], result: dg.MaterializeResult[Any]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[Any]]:
    """The asset's result with its checks; if a check blocks, only the checks, and dg.Failure, so
    that the value is not stored."""
    yield from stopped(checks)
    yield result._replace(check_results=_results(checks))


def stopped(checks: Sequence[Checked]) -> Iterator[dg.AssetCheckResult]:
    """The checks and dg.Failure if one of them blocks, else nothing."""
    failed = [check for check in checks if check.blocks]
    if failed:
        yield from _results(checks)
        raise dg.Failure(
            "; ".join(f"{check.name}: {check.found}" for check in failed), allow_retries=False
        )


def _results(checks: Sequence[Checked]) -> list[dg.AssetCheckResult]:
    return [
        dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            severity=(
                dg.AssetCheckSeverity.WARN
                if check.name in WARNINGS
                else dg.AssetCheckSeverity.ERROR
            ),
            description=escaped(check.found),
            metadata=check.numbers,
        )
        for check in checks
    ]
