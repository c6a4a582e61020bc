"""recommendations: every user's list, from a batch inference job to one table."""

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.batch_inference import MAX_RESULTS
from batchrec_dagster.personalize.batch_input import UsersFiles
from batchrec_dagster.personalize.datasets import FILTER_HISTORY, ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.personalize.ensure import BATCH_INFERENCE_JOB
from batchrec_dagster.pipeline.checks import published, specs, stopped
from batchrec_dagster.pipeline.exclusive_step import exclusive_step
from batchrec_dagster.pipeline.resources import PersonalizeResource
from batchrec_dagster.pipeline.ui import (
    asset_args,
    column_lineage,
    column_schema,
    dataset_group,
    preview,
    sample,
    stored,
    text,
)
from batchrec_dagster.steps.batch_jobs import filter_arn, has_output, lasted, output_folder
from batchrec_dagster.steps.cost import cost_metadata, recommendations_cost
from batchrec_dagster.steps.items import titles_of, titles_versions
from batchrec_dagster.steps.publishing import (
    PublicationConfig,
    Publishing,
    checks_of,
    republish,
)
from batchrec_dagster.steps.recommendation_table import (
    RecommendationTable,
    SeenItems,
    build_locally,
    interactions_of,
)
from batchrec_dagster.steps.rollback import edition_summary
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "1"

# Asking more of Personalize for the sake of the longest histories makes everyone's answer longer;
# this many rows in all are read in seconds.
MOST_ROWS = 10_000_000

COLUMNS = {
    "user_id": ("string", "The user's id."),
    "rank": ("int", "1 is the best."),
    "item_id": ("string", "The recommended item's id."),
    "title": ("string", "The item's title; null where the items file has none."),
    "score": ("float", "Personalize's score; of all items together a user's scores sum to 1."),
}


# What each column is made of: a score, and so the rank, of all that the model has learnt from.
_LEARNT_FROM = [("interactions", USER_ID), ("interactions", ITEM_ID), ("interactions", TIMESTAMP)]
MADE_OF = {
    "user_id": [("batch_users", "userId")],
    "rank": _LEARNT_FROM,
    "item_id": [("interactions", ITEM_ID)],
    "title": [("item_titles", "title")],
    "score": _LEARNT_FROM,
}


def recommendations(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    wanted = pipeline.recommendations
    seen_checks = (
        {"no_seen_items": "No list contains an item that its user already interacted with."}
        if wanted.exclude_seen
        else {}
    )

    @dg.asset(
        **asset_args(
            pipeline,
            description=f"What all this is for: the {wanted.num_results} items that suit each user"
            " best, as one table of user_id, rank, item_id and score"
            f"{', with the titles of the items' if titles_of(pipeline) else ''}."
            f"{' What a user already had is left out.' if wanted.exclude_seen else ''}",
            kinds={"personalize", "parquet"},
            storage_key=pipeline.places.recommendations,
            code_version=f"{CODE_VERSION}-{fingerprint(wanted, *titles_of(pipeline))}",
            io_manager="published_io",
        ),
        deps=[dg.AssetKey([pipeline.name, "interactions"]), *titles_of(pipeline)],
        check_specs=specs(
            "recommendations",
            pipeline.name,
            quality_gate="The model is good enough to publish its lists.",
            every_user_answered="Every requested user has exactly one result.",
            no_failed_users="No user has an error instead of items.",
            no_duplicates="No list contains an item twice.",
            **seen_checks,
            lists_full=f"Every user has all {wanted.num_results} items.",
        ),
    )
    @exclusive_step(pipeline)
    def recommendations(
        context: dg.AssetExecutionContext,
        config: PublicationConfig,
        solution_version: dict[str, Any],
        batch_users: pl.LazyFrame,
        storage: StorageResource,
        personalize: PersonalizeResource,
    ) -> Iterator[Any]:
        started = time.monotonic()
        places = pipeline.places
        if config.roll_back_to:
            yield from _rolled_back(pipeline, storage, context, config.roll_back_to)
            return
        users_files = UsersFiles(storage.store, storage.uri(places.batch_users))
        users_version = users_files.version()
        publishing = Publishing(pipeline, storage, solution_version, users_version)
        gate = publishing.gate(config)
        yield from stopped([gate])
        version_arn, data_version = (
            solution_version[key] for key in ("solution_version_arn", "data_version")
        )
        users = batch_users.select("userId").collect(engine="streaming").get_column("userId")
        ensure = personalize.ensure(
            context.log, {**pipeline.tags, "batchrec:data-version": data_version}
        )
        request: dict[str, Any] = {
            "solutionVersionArn": version_arn,
            "numResults": wanted.num_results,
            "jobInput": {"s3DataSource": {"path": users_files.input()}},
            "roleArn": personalize.role_arn,
        }
        if wanted.filter_expression:
            # An expression cannot be changed, so that another one means another filter.
            own = fingerprint(wanted.filter_expression)[:8] if wanted.filter else None
            request["filterArn"] = filter_arn(
                ensure,
                solution_version,
                own or "exclude-seen",
                wanted.filter_expression,
                f"recommendations.{'filter' if own else 'exclude_seen'}",
            )
        seen = None
        if wanted.exclude_seen:
            with interactions_of(publishing) as interactions:
                seen = SeenItems(interactions, users)
            # The filter overlooks what a user saw before the latest interactions it looks at.
            request["numResults"] = min(
                personalize.max_results,
                max(MAX_RESULTS, MOST_ROWS // max(1, len(users))),
                wanted.num_results + max(0, seen.longest - FILTER_HISTORY),
            )

        def output(job: str) -> str:
            return storage.uri(places.batch_inference(job))

        job = ensure.ready(
            BATCH_INFERENCE_JOB,
            ensure.start_numbered(
                BATCH_INFERENCE_JOB,
                f"{pipeline.name}-{fingerprint(request, users_version, data_version)[:12]}",
                lambda name: {
                    **request,
                    "jobOutput": {"s3DataDestination": {"path": output(name)}},
                },
                usable=partial(has_output, storage),
                solutionVersionArn=version_arn,
            ),
        )
        seconds = lasted(job)
        context.log.info(
            f"{len(users):,} users inferred in {seconds:.1f} s"
            + (f", {len(users) / seconds:,.0f} a second" if seconds else "")
        )
        recipe = pipeline.solution.recipe
        paid = [recommendations_cost(recipe, len(users))] if job.created else []
        with build_locally(publishing, job.description, users, seen, context.log) as lists:
            version = fingerprint(
                job.arn,
                users_version,
                wanted,
                CODE_VERSION,
                *titles_versions(pipeline, storage),
            )
            checks = [gate, *lists.checks]
            about = publishing.about(
                version,
                context.run.run_id,
                checks,
                {
                    "batch_inference_job_arn": job.arn,
                    "rows": lists.rows,
                    "users": lists.users,
                    "items": lists.items,
                },
            )
            yield from stopped(checks)
            result: dg.MaterializeResult[Any] = dg.MaterializeResult(
                data_version=dg.DataVersion(version),
                metadata={
                    "preview": _preview(lists),
                    "dagster/row_count": lists.rows,
                    "dagster/column_schema": column_schema(COLUMNS, lists.sample.columns),
                    "dagster/column_lineage": column_lineage(
                        pipeline, MADE_OF, lists.sample.columns
                    ),
                    "users": lists.users,
                    "items": lists.items,
                    "results_asked_for": request["numResults"],
                    "seen_items_dropped": lists.dropped,
                    **dataset_group(personalize, solution_version["dataset_group_arn"]),
                    "batch_inference_job_arn": job.arn,
                    "batch_inference_output": output_folder(job.description),
                    "status": job.description["status"],
                    "outcome": "inferred" if job.created else "unchanged: not inferred again",
                    "inference_seconds": seconds,
                    **cost_metadata("cost_usd", paid, on_aws=personalize.on_aws),
                    "sample": sample(lists.sample),
                    "seconds": time.monotonic() - started,
                },
            )
            edition = lists.publish(about)
            table = stored("table", storage, edition.uri)
            metadata = {**(result.metadata or {}), **table}
            yield from published(checks, result._replace(value=edition, metadata=metadata))

    return recommendations


def _preview(lists: RecommendationTable) -> dg.MetadataValue[Any]:
    """How many there are, and how the first begins."""
    told = (
        f"**{lists.users:,} users** have a list.",
        f"{lists.items:,} different items are in them.",
    )
    if not lists.sample.height:
        return preview(*told)
    first = lists.sample.filter(pl.col("user_id") == lists.sample.item(0, "user_id"))
    return preview(
        *told,
        f"User {text(first.item(0, 'user_id'))} gets:",
        "\n".join(
            f"{row['rank']}. {text(row.get('title') or row['item_id'])}"
            for row in first.iter_rows(named=True)
        ),
    )


def _rolled_back(
    pipeline: Pipeline, storage: StorageResource, context: dg.AssetExecutionContext, to: str
) -> Iterator[Any]:
    """Publish the lists of an older edition again, with its checks. Raises dg.Failure."""
    edition = republish(
        pipeline, storage, to, context.run.root_run_id or context.run_id, context.log
    )
    about = edition.about
    result = dg.MaterializeResult(
        value=edition,
        data_version=dg.DataVersion(edition.version),
        metadata={
            "outcome": f"rolled back to {edition_summary(edition)}",
            **({"dagster/row_count": about["rows"]} if "rows" in about else {}),
            **{
                key: about[key]
                for key in ("users", "items", "made_at", "solution_version_arn")
                if key in about
            },
            "table": storage.where(storage.uri(pipeline.places.recommendations)),
        },
    )
    names = [spec.name for spec in context.assets_def.check_specs]
    yield from published(checks_of(edition, names), result)
