"""The assets of the declared sinks, such as recommendations_in_postgres.

If a sink fails, the lists stay published, and the other sinks are still written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.editions.subjects import ListSubject, find_subject
from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.declare_asset import PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import to_dagster
from batchrec_dagster.pipeline.run_step import find_retry_policy
from batchrec_dagster.sinks import Sink, SinkContext, SinkResult
from batchrec_dagster.steps.lists.sinks import write_sink

CODE_VERSION = "2"

# The retries if a sink's service is unavailable. The assets do not declare this policy, because
# Dagster would then retry bugs too.
RETRIES = dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.LINEAR)


def sink_assets(published: ListTable) -> list[PipelineAsset]:
    """Return an asset for each sink that the list declares."""
    return [declare_sink(published, key, sink) for key, sink in published.sinks.declared.items()]


def declare_sink(published: ListTable, key: str, sink: Sink) -> PipelineAsset:
    """Declare the asset of a sink.

    key: the sink's key in the YAML.
    """
    sink_description = sink.describe(published.pipeline.project)
    lists_asset = asset_key(published, published.asset)

    @asset_of(
        published,
        name_sink_asset(published, sink),
        description=sink_description.text,
        kinds={sink_description.kind},
        inputs={"recommendations": lists_asset},
        code_version=f"{CODE_VERSION}-{fingerprint(sink)}",
    )
    def write_lists(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame
    ) -> dg.MaterializeResult[Any]:
        step = open_step(published.pipeline, context)
        subject = find_subject(recommendations.collect_schema().names())
        sink_context = SinkContext(
            address=published.address,
            storage=step.storage,
            project=published.pipeline.project,
            run_id=context.run.run_id,
            subject=subject,
        )
        with _retry_if_unavailable(context, key):
            result = write_sink(key, sink, recommendations, sink_context)
        for warning in filter(None, (result.warning, result.remains)):
            context.log.warning(warning)
        return to_dagster(_build_sink_metadata(result, subject))

    return write_lists


def name_sink_asset(published: ListTable, sink: Sink) -> str:
    """Return the name of a sink's asset for these lists, such as recommendations_in_postgres."""
    return sink.asset.replace("recommendations", published.asset, 1)


def _build_sink_metadata(result: SinkResult, subject: ListSubject) -> dict[str, Any]:
    counts = result.counts
    return {
        "dagster/row_count": counts.rows,
        subject.name: counts.users,
        **result.facts,
    }


@contextmanager
def _retry_if_unavailable(context: dg.AssetExecutionContext, key: str) -> Iterator[None]:
    """Retry the step with growing delays if a service is unavailable.

    If a retry policy is declared for the step, Dagster applies it instead. Other errors of the sink
    fail the step.

    key: the sink's key in the YAML.

    Raises dg.RetryRequested, Retry, UserError.
    """
    try:
        yield
    except Retry as error:
        if find_retry_policy(context) is not None:
            raise Retry(f"sinks.{key}: {error}") from error
        attempts = RETRIES.max_retries + 1
        problem, _, fix = f"sinks.{key}: {error}".partition("; ")
        if context.retry_number >= RETRIES.max_retries:
            text = f"{problem}, {attempts} times in a row" + (f"; {fix}" if fix else "")
            raise UserError(text) from error
        delay = RETRIES.calculate_delay(context.retry_number + 1)
        text = f"{problem}, trying again in {delay:g} s, {context.retry_number + 2} of {attempts}"
        context.log.warning(text)
        raise dg.RetryRequested(RETRIES.max_retries, delay) from Retry(text)
    except UserError as error:
        raise UserError(f"sinks.{key}: {error}") from error
