"""recommendation_report: what a person looks at."""

import glob
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.batch_input import UsersFiles
from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.pipeline.ui import asset_args, preview, stored, text
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.reporting.facts import Run, facts
from batchrec_dagster.reporting.history import trainings, verdicts
from batchrec_dagster.reporting.page import page
from batchrec_dagster.reporting.published import Tables
from batchrec_dagster.steps.items import titles_of
from batchrec_dagster.steps.rollback import published_table
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"


def recommendation_report(
    pipeline: Pipeline, checks: Sequence[dg.AssetCheckKey] = ()
) -> dg.AssetsDefinition:
    """The asset; it tells which of the `checks` warn."""
    declared = [*titles_of(pipeline), *(_key(pipeline, name) for name in _optional(pipeline))]
    told = fingerprint(
        pipeline.description, pipeline.ratings.source, pipeline.solution.recipe, *declared
    )

    @dg.asset(
        **asset_args(
            pipeline,
            description="A page for people, in one file that any browser opens: how good the lists"
            " are, whom they serve, what they show, and each user's history beside their list.",
            kinds={"html"},
            storage_key=pipeline.places.report,
            code_version=f"{CODE_VERSION}-{told}",
            io_manager="html_io",
        ),
        deps=[
            *(_key(pipeline, name) for name in ("interactions", "batch_users", "recommendations")),
            *declared,
        ],
    )
    def recommendation_report(
        context: dg.AssetExecutionContext,
        solution_version: dict[str, Any],
        storage: StorageResource,
    ) -> dg.MaterializeResult[str]:
        started = time.monotonic()
        try:
            edition, lists = published_table(storage, pipeline.places).read()
            # What is published need not be of the newest model.
            trained = {"recipe": pipeline.solution.recipe, **solution_version, **edition.about}
            run = Run(
                pipeline=pipeline.name,
                description=pipeline.description,
                source=hide_query(pipeline.ratings.source),
                recipe=trained["recipe"],
                made=datetime.now(UTC),
                solution_version=trained["solution_version_arn"],
                metrics=trained["metrics"],
                popularity=trained["popularity_metrics"],
                trainings=trainings(context.instance, pipeline.name),
                verdicts=verdicts(context.instance, checks),
                earlier_data=trained["data_version"] != solution_version["data_version"],
                trained=_trained_before(trained),
            )
            with _tables(pipeline, storage, lists) as tables:
                found = facts(run, tables)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        html = page(found)
        for warning in found.warnings:
            context.log.warning(warning)
        shown = len(found.people.people)
        return dg.MaterializeResult(
            value=html,
            metadata={
                "preview": preview(
                    # Short ones: a page of the UI cuts them off beside the long paths below.
                    f"**{found.people.served:,} users** have a list.",
                    f"{shown:,} can be looked at, with their history.",
                    "\n".join(f"- {text(warning)}" for warning in found.warnings)
                    or "There are no warnings.",
                ),
                **stored("report", storage, storage.uri(pipeline.places.report)),
                "bytes": len(html.encode()),
                "users": found.people.served,
                "people_shown": shown,
                "sampled": shown < found.people.served,
                "warnings": len(found.warnings),
                "seconds": time.monotonic() - started,
            },
        )

    return recommendation_report


def _trained_before(trained: Mapping[str, Any]) -> datetime | None:
    """When the model was trained, if its data were older than those of the lists."""
    if "trained_on" not in trained or trained["data_version"].startswith(trained["trained_on"]):
        return None
    return datetime.fromisoformat(trained["trained_at"])


def _key(pipeline: Pipeline, asset: str) -> dg.AssetKey:
    return dg.AssetKey([pipeline.name, asset])


def _categories(pipeline: Pipeline) -> list[str]:
    return [*pipeline.items.layout.categories] if pipeline.items else []


def _optional(pipeline: Pipeline) -> list[str]:
    """The assets that a report tells of where they are declared."""
    return [
        *(["items"] if _categories(pipeline) else []),
        *(["user_segments"] if pipeline.segments else []),
    ]


@contextmanager
def _tables(
    pipeline: Pipeline, storage: StorageResource, recommendations: pl.LazyFrame
) -> Iterator[Tables]:
    """The tables of what is published, the large ones read from their files as far as is needed."""
    places, categories, optional = pipeline.places, _categories(pipeline), _optional(pipeline)
    with ExitStack() as stack:

        def file(key: str) -> str:
            return path(storage.uri(key))

        def path(uri: str) -> str:
            return str(stack.enter_context(storage.local_file(uri)))

        users = UsersFiles(storage.store, storage.uri(places.batch_users)).files()
        yield Tables(
            interactions=pl.scan_csv(
                file(places.interactions),
                schema_overrides={TIMESTAMP: pl.Int64()},
                infer_schema=False,  # Ids are text, whatever they look like.
                glob=False,
            ).select(USER_ID, ITEM_ID, TIMESTAMP),
            recommendations=recommendations,
            users=pl.scan_ndjson([glob.escape(path(uri)) for uri in users]).select("userId"),
            titles=(
                pl.read_parquet(file(places.item_titles), glob=False)
                if titles_of(pipeline)
                else None
            ),
            items=(
                pl.read_csv(file(places.items), infer_schema=False, glob=False)
                if "items" in optional
                else None
            ),
            categories=categories,
            segments=(
                pl.read_parquet(file(places.user_segments), glob=False)
                if "user_segments" in optional
                else None
            ),
        )
