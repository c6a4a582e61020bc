"""recommendations_in_postgres, recommendations_in_dynamodb, recommendations_export: an asset for
each declared sink. One that fails takes nothing back and stops no other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.declare_asset import WRITES_TO, asset, preview
from batchrec_dagster.sinks import Sink, SinkContext, SinkError, SinkUnavailableError
from batchrec_dagster.steps.work import Work

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

    @asset(
        pipeline,
        name=sink.asset,
        description=described.text,
        kinds={described.kind},
        code_version=f"{CODE_VERSION}-{fingerprint(sink)}",
        metadata={WRITES_TO: described.place} if described.place else {},
    )
    def write_sink(
        context: dg.AssetExecutionContext, recommendations: pl.LazyFrame, work: Work
    ) -> dg.MaterializeResult[None]:
        with _retried(context, key):
            run = context.run.run_id
            written = sink.write(
                recommendations,
                SinkContext(pipeline.name, work.storage, pipeline.project, os.environ, run),
            )
        if written.warning:
            context.log.warning(written.warning)
        counts = written.counts
        return dg.MaterializeResult(
            metadata={
                "preview": preview(f"**{counts.rows:,} rows** for {counts.users:,} users."),
                "dagster/row_count": counts.rows,
                "users": counts.users,
                **written.facts,
            }
        )

    return write_sink


@contextmanager
def _retried(context: dg.AssetExecutionContext, key: str) -> Iterator[None]:
    """Retry what is unavailable, with growing delays; fail on the rest."""
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
