"""Records of nights (runs) that failed. The step that ended the run writes them.

A killed process records nothing. ended_runs.py reads the fate of such runs from Dagster.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import dagster as dg

from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.pipeline.run_history import find_root_run, find_run_start
from batchrec_dagster.steps.context import measure_seconds
from batchrec_dagster.steps.model.cost import read_run_cost
from batchrec_dagster.steps.records import read_model

# The most characters of a reason that fit into a list of nights.
MOST_CHARACTERS = 200
# The step that decides whether lists are published.
PUBLISHING_STEP = "recommendations"


def record_failure(
    context: dg.AssetExecutionContext, files: ListFiles, error: BaseException
) -> None:
    """Record that the step's error ended its run, unless the error requests a retry.

    The step still fails with this error, even if recording the error fails.
    """
    try:
        _record_error(context, files, error)
    except Exception as bug:
        context.log.exception(f"this failure is missing in the list of nights: {bug!r}")


def _record_error(
    context: dg.AssetExecutionContext, files: ListFiles, error: BaseException
) -> None:
    if isinstance(error, Refused):
        _record(
            context, files, "refused", [finding for finding in error.findings if finding.blocks]
        )
    elif isinstance(error, dg.DagsterExecutionInterruptedError):
        _record(context, files, "stopped")
    elif not isinstance(error, dg.RetryRequested | GeneratorExit):
        _record(context, files, "failed", reason=_describe_error(error))


def _describe_error(error: BaseException) -> str:
    """Return the error's message, with its type if the error is a bug."""
    if isinstance(error, dg.Failure):
        return error.description or ""
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _shorten(message: str) -> str:
    """Return a message in one line that is short enough for a list of nights."""
    line = " ".join(message.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"


def forget_failure(context: dg.AssetExecutionContext, files: ListFiles) -> None:
    """Delete the record of the step's failure, if this step is a successful retry."""
    is_retry = context.run.root_run_id is not None or context.retry_number > 0
    if is_retry:
        with suppress(UserError):
            step = context.asset_key.path[-1]
            files.editions.remove_nights(find_root_run(context), step)


def _record(
    context: dg.AssetExecutionContext,
    files: ListFiles,
    ended: Literal["refused", "failed", "stopped"],
    findings: Sequence[Finding] = (),
    reason: str = "",
) -> None:
    """Record how the run ended.

    findings: the findings that refused publication.
    reason: why the run ended, if no finding says so.
    """
    step, root_run = context.asset_key.path[-1], find_root_run(context)
    with suppress(UserError):
        # If the step refused to publish lists, record the NDCG of their model.
        is_measured = step == PUBLISHING_STEP and ended == "refused"
        model = read_model(files, "solution_version") if is_measured else None
        files.editions.add_night(
            Night(
                run=root_run,
                ended=ended,
                time=datetime.now(UTC),
                steps=(step,),
                checks=tuple(finding.name for finding in findings),
                reason=_shorten(
                    "; ".join(finding.headline or finding.text for finding in findings) or reason
                ),
                ndcg=model.ndcg if model is not None else None,
                cost_usd=read_run_cost(files, root_run),
                seconds=measure_seconds(find_run_start(context)),
            )
        )
        # The import is here, because it needs NumPy and Jinja.
        from batchrec_dagster.reporting.stored_page import show_last_night

        show_last_night(files)
