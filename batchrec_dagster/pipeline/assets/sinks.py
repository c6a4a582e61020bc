"""recommendations_in_postgres, recommendations_in_dynamodb, recommendations_export: an asset for
each declared sink. One that fails takes nothing back and stops no other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.declare_asset import WRITES_TO, asset_options, preview_metadata
from batchrec_dagster.pipeline.run_step import asset_step, get_work
from batchrec_dagster.sinks import Sink, SinkContext, SinkError, SinkUnavailableError

CODE_VERSION = "1"

# Not the assets' own policy: with that one, Dagster would restart what somebody cancels.
RETRIES = dg.RetryPolicy(
    max_retries=3, delay=30, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)


def sink_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    return [sink_asset(pipeline, key, sink) for key, sink in pipeline.sinks.declared.items()]


def sink_asset(pipeline: Pipeline, key: str, sink: Sink) -> dg.AssetsDefinition:
    """The asset of the sink under this key of the YAML."""
    described = sink.describe(pipeline.project)

    @dg.asset(
        **asset_options(
            pipeline,
            sink.asset,
            description=described.text,
            kinds={described.kind},
            inputs=["recommendations"],
            code_version=f"{CODE_VERSION}-{fingerprint(sink)}",
            metadata={WRITES_TO: described.place} if described.place else {},
        )
    )
    @asset_step
    def write_sink(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame
    ) -> dg.MaterializeResult[Any]:
        work = get_work(pipeline, context)
        with _retry_if_unavailable(context, key):
            written = sink.write(
                recommendations,
                SinkContext(
                    pipeline.name, work.storage, pipeline.project, os.environ, context.run.run_id
                ),
            )
        if written.warning:
            context.log.warning(written.warning)
        counts = written.counts
        return dg.MaterializeResult(
            metadata={
                "preview": preview_metadata(
                    f"**{counts.rows:,} rows** for {counts.users:,} users."
                ),
                "dagster/row_count": counts.rows,
                "users": counts.users,
                **written.facts,
            }
        )

    return write_sink


@contextmanager
def _retry_if_unavailable(context: dg.AssetExecutionContext, key: str) -> Iterator[None]:
    """Retries the step, with growing delays, if a service is unavailable, and fails it on other
    errors of the sink.

    key: the sink's key in the YAML. Raises dg.RetryRequested, dg.Failure.
    """
    try:
        yield
    except SinkUnavailableError as error:
        if context.retry_number >= RETRIES.max_retries:
            raise dg.Failure(f"sinks.{key}: {error}", allow_retries=False) from error
        context.log.warning(f"sinks.{key}: {error}; trying again")
        raise dg.RetryRequested(
            RETRIES.max_retries, RETRIES.calculate_delay(context.retry_number + 1)
        ) from error
    except SinkError as error:
        raise dg.Failure(f"sinks.{key}: {error}", allow_retries=False) from error
