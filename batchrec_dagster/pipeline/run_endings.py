"""Records how runs end that publish nothing, from the steps that end them.

A process that is killed records nothing; Dagster itself knows of it, see ended_runs.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import dagster as dg

from batchrec_dagster.errors import Refused, UserError
from batchrec_dagster.personalize.measurements import read_ndcg
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.storage_resource import StorageResource
from batchrec_dagster.steps.cost import read_run_cost
from batchrec_dagster.steps.records import read_model
from batchrec_dagster.steps.runs import measure_seconds
from batchrec_dagster.storage.edition import Finding
from batchrec_dagster.storage.extras import is_installed
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.nights import Night

# The metadata of every asset that names its pipeline, and of those of one of several lists that
# names the list.
PIPELINE, LIST = "batchrec/pipeline", "batchrec/list"
# A night's reason has no more characters.
MOST_CHARACTERS = 200
# The step that decides whether lists are published.
PUBLISHING_STEP = "recommendations"


def read_address(metadata: Mapping[str, Any]) -> str:
    """The address of the pipeline that an asset with this metadata is of, or of its list."""
    return "/".join(str(metadata[key]) for key in (PIPELINE, LIST) if key in metadata)


def find_root_run(context: dg.AssetExecutionContext) -> str:
    """The id of the first of a run and its retries."""
    return context.run.root_run_id or context.run.run_id


def find_run_start(context: dg.AssetExecutionContext) -> datetime | None:
    """When the run started; None if Dagster does not know."""
    records = context.instance.get_run_records(dg.RunsFilter(run_ids=[context.run.run_id]))
    start = records[0].start_time if records else None
    return None if start is None else datetime.fromtimestamp(start, UTC)


def record_failure(context: dg.AssetExecutionContext, error: BaseException) -> None:
    """Record that the step's error ended its run. An error of doing so does not hide that one."""
    if isinstance(error, Refused):
        _record(context, "refused", [check for check in error.findings if check.blocks])
    elif isinstance(error, dg.DagsterExecutionInterruptedError):
        _record(context, "stopped")
    elif not isinstance(error, dg.RetryRequested | GeneratorExit):
        _record(context, "failed", reason=_describe_error(error))


def _describe_error(error: BaseException) -> str:
    """What the error says; of an unexpected one with its kind."""
    if isinstance(error, dg.Failure):
        return error.description or ""
    return f"{type(error).__name__}: {error}"


def shorten(message: str) -> str:
    """A message in one line, which is short enough for a list of nights."""
    line = " ".join(message.split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"


def record_unchanged(context: dg.AssetExecutionContext) -> None:
    """Record that the run had nothing new to publish."""
    _record(context, "unchanged")


def forget_failure(context: dg.AssetExecutionContext) -> None:
    """Forget that the step ended the run, if it is a retry, which has succeeded."""
    is_retry = context.run.root_run_id is not None or context.retry_number > 0
    files = _find_files(context) if is_retry else None
    if files is not None:
        with suppress(UserError):
            step = context.asset_key.path[-1]
            files.editions.remove_nights(find_root_run(context), step)


def _record(
    context: dg.AssetExecutionContext,
    ended: Literal["refused", "failed", "stopped", "unchanged"],
    checks: Sequence[Finding] = (),
    reason: str = "",
) -> None:
    """Record how the run ended.

    checks: the findings that refused.
    reason: why it ended, if no finding says so.
    """
    files = _find_files(context)
    if files is None:
        return
    step, root_run = context.asset_key.path[-1], find_root_run(context)
    with suppress(UserError):
        # The model whose lists were not published.
        is_measured = step == PUBLISHING_STEP and ended == "refused"
        model = read_model(files, "solution_version") if is_measured else None
        ndcg = read_ndcg(model) if model is not None else None
        files.editions.add_night(
            Night(
                run=root_run,
                ended=ended,
                time=datetime.now(UTC),
                steps=(step,),
                checks=tuple(check.name for check in checks),
                reason=shorten(
                    "; ".join(check.headline or check.text for check in checks) or reason
                ),
                ndcg=ndcg.value if ndcg else None,
                ndcg_low=ndcg.low if ndcg else None,
                ndcg_high=ndcg.high if ndcg else None,
                cost_usd=read_run_cost(files, root_run),
                seconds=measure_seconds(find_run_start(context)),
            )
        )
        if ended != "unchanged" and is_installed("report"):
            # Imported here, because it needs NumPy and Jinja.
            from batchrec_dagster.reporting.page_files import show_last_night

            show_last_night(files)


def _find_files(context: dg.AssetExecutionContext) -> ListFiles | None:
    """The files of the asset's pipeline or list; None for an asset that is not batchrec's."""
    metadata: dict[str, Any] = dict(context.assets_def.metadata_by_key[context.asset_key])
    if PIPELINE not in metadata:
        return None
    for key in sorted(context.assets_def.required_resource_keys):
        resource = getattr(context.resources, key, None)
        if isinstance(resource, PersonalizeResource):
            resource = resource.storage
        if isinstance(resource, StorageResource):
            return ListFiles(resource.opened, ListKeys(read_address(metadata)))
    return None
