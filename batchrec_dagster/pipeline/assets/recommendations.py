"""The assets recommendations and user_segments: lists and segments of batch jobs, as tables."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.list_columns import name_published_column
from batchrec_dagster.config.recommendations import PopularBy
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.personalize.file_formats import USER_FIELD
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.pipeline.assets.sinks import write_sinks_again
from batchrec_dagster.pipeline.automation.old_runs import delete_old_runs
from batchrec_dagster.pipeline.declare_asset import (
    PUBLISHED_IO,
    asset_options,
    budget_check,
    build_cost_metadata,
    dataset_group_link,
    preview_metadata,
    sample_metadata,
    storage_links,
    table_metadata,
)
from batchrec_dagster.pipeline.run_endings import find_root_run, find_run_start, record_unchanged
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.reporting.markdown import escape, format_numbered_list
from batchrec_dagster.reporting.markdown import format_table as markdown_table
from batchrec_dagster.reporting.rules import (
    COST_COLUMNS,
    RULE_COLUMNS,
    describe_costs,
    list_cost_rows,
    list_rule_rows,
)
from batchrec_dagster.steps.absent_users import drop_absent_users_if_refused
from batchrec_dagster.steps.batch_jobs import JobOutput, describe_outcome, measure_job_seconds
from batchrec_dagster.steps.checks import ROWS_TITLED, FailedChecksError
from batchrec_dagster.steps.cost import WITHIN_BUDGET, check_budget
from batchrec_dagster.steps.items import list_attribute_columns
from batchrec_dagster.steps.lists_declaration import describe_lists
from batchrec_dagster.steps.publishing import read_checks, republish, summarize_edition
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.runs import RunFacts
from batchrec_dagster.steps.segment_table import UserSegments, segment_users
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.published_table import Edition

if TYPE_CHECKING:
    from batchrec_dagster.steps.infer import PublishedLists
    from batchrec_dagster.steps.list_builder import RecommendationTable


CODE_VERSION = "1"


class PublicationConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    skip_quality_gate: bool = Field(
        default=False, description="Publish even if the quality gate fails."
    )
    roll_back_to: str = Field(
        default="",
        description="Publish older lists again instead of new ones: an edition's number, or"
        " previous.",
    )


# The type and the description of the columns that lists can have, apart from those of the items.
COLUMNS = {
    "user_id": ("string", "The user's id."),
    "rank": ("int", "1 is the best."),
    "item_id": ("string", "The recommended item's id."),
    "title": ("string", "The item's title; null where the items file has none."),
    "image": ("string", "The address of its picture; null where the items file has none."),
    "link": ("string", "The address of its page; null where the items file has none."),
    "score": (
        "float",
        "Personalize's score; a user's scores over all items sum to 1. Null:"
        " a popular item that Personalize added where the filter left too few, a recipe"
        " without scores, or an item that a rule put on the list.",
    ),
    "reason": (
        "string",
        "Why the item is on the list: because of reason_item, popular, new (nobody had it yet), or"
        " pinned by a rule. Null: not known. Where only rules give reasons, null: the model's own.",
    ),
    "reason_item": (
        "string",
        "The item of the user's history that has most users in common with this one.",
    ),
    "arm": (
        "string",
        "The user's arm of the experiment: model, or control, which gets popular items or nothing.",
    ),
}


# The upstream columns of each column. A score, and so a rank, depends on all training data.
_TRAINED_ON = [("interactions", USER_ID), ("interactions", ITEM_ID), ("interactions", TIMESTAMP)]
COLUMN_LINEAGE = {
    "user_id": [("batch_users", USER_FIELD)],
    "rank": _TRAINED_ON,
    "item_id": [("interactions", ITEM_ID)],
    "title": [("item_titles", "title")],
    "image": [("item_titles", "image")],
    "link": [("item_titles", "link")],
    "score": _TRAINED_ON,
    "reason": [("interactions", ITEM_ID)],
    "reason_item": [("interactions", ITEM_ID)],
    "arm": [("batch_users", USER_FIELD)],
}


def _describe_columns(pipeline: Pipeline) -> dict[str, tuple[str, str]]:
    """The type and the description of each column that the pipeline's lists can have."""
    described = {
        name_published_column(name): (
            "double" if pipeline.items and name in pipeline.items.layout.numbers else "string",
            f"The item's {name}; null where the items file has none.",
        )
        for name in list_attribute_columns(pipeline)
    }
    return {**COLUMNS, **described}


def _trace_columns(pipeline: Pipeline) -> dict[str, list[tuple[str, str]]]:
    """The upstream columns of each column that the pipeline's lists can have."""
    traced = {
        name_published_column(name): [("items", name)] for name in list_attribute_columns(pipeline)
    }
    return {**COLUMN_LINEAGE, **traced}


def recommendations(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset of the published lists."""
    settings, titles = pipeline.recommendations, title_assets(pipeline)
    experiment = [pipeline.experiment] if pipeline.experiment else []
    own_settings = [*experiment, *pipeline.own_popularity]
    declaration = describe_lists(pipeline)
    # The table has the model's metrics, which count these events.
    target_events = [pipeline.solution.target_events] if pipeline.solution.target_events else []
    made_with = fingerprint(settings, *titles, *own_settings, *target_events)
    without_seen = " Items that a user already had are left out."

    @dg.asset(
        **asset_options(
            pipeline,
            "recommendations",
            description=f"{_describe_purpose(pipeline)}The published table: the top"
            f" {settings.num_results} items for every user, as user_id, rank, item_id and score"
            f"{describe_list_columns(pipeline)}{', and arm' if experiment else ''}."
            f"{without_seen if settings.excludes_all_seen else ''}",
            kinds={"personalize", "parquet"},
            inputs=["solution_version", "batch_users"],
            deps=[pipeline.asset_key("interactions"), *titles, *attribute_assets(pipeline)],
            resources=["personalize"],
            storage_key=pipeline.storage_keys.recommendations,
            code_version=f"{CODE_VERSION}-{made_with}",
            io_manager=PUBLISHED_IO,
            checks=list_checks(pipeline),
            warnings=list_warnings(pipeline),
        )
    )
    @asset_step
    def recommendations(
        context: dg.AssetExecutionContext,
        config: PublicationConfig,
        solution_version: ModelRecord,
        batch_users: pl.LazyFrame,
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.infer import infer_and_publish  # NumPy
        from batchrec_dagster.steps.retention import delete_unneeded

        work = get_personalize_work(pipeline, context)
        if pipeline.trial is None:
            delete_old_runs(context.instance, pipeline, context.log)
        with work.step_lease("recommendations", context.run.run_id):
            if config.roll_back_to:
                return roll_back(work, context, config.roll_back_to, delete_unneeded)
            run = describe_run(context, config)
            with drop_absent_users_everywhere(work, context):
                lists = infer_and_publish(work, declaration, solution_version, batch_users, run)
            if lists.edition.about.get("root_run") != run.root_run:
                record_unchanged(context)
        return materialization_with_checks(
            lists.checks,
            dg.MaterializeResult(
                value=load_own_value(work),
                data_version=dg.DataVersion(lists.edition.version),
                metadata=_lists_metadata(work, lists, solution_version),
            ),
        )

    return recommendations


def describe_run(context: dg.AssetExecutionContext, config: PublicationConfig) -> RunFacts:
    """What a step has to know of the run that publishes."""
    return RunFacts(
        context.run.run_id,
        find_root_run(context),
        find_run_start(context),
        config.skip_quality_gate,
    )


@contextmanager
def drop_absent_users_everywhere(
    work: PersonalizeWork, context: dg.AssetExecutionContext
) -> Iterator[None]:
    """A block that makes new lists. If a check refuses them, the published ones stay, without users
    who are gone, and the sinks are written again without them."""
    try:
        with drop_absent_users_if_refused(work.files):
            yield
    except FailedChecksError:
        edition = work.files.table.current()
        # Also after a kill, or if a sink could not be written when they were dropped.
        if edition is not None and edition.users_dropped:
            write_sinks_again(work, context)
        raise


def _describe_purpose(pipeline: Pipeline) -> str:
    """What the list is for, as a sentence with a space after it; empty if that is not declared."""
    settings = pipeline.lists.get(pipeline.list_name or "")
    if settings is None or not settings.description:
        return ""
    return f"{settings.description.rstrip('.')}. "


def load_own_value(work: PersonalizeWork) -> Any:
    """The published table for the project's own IO manager.

    Without one the table is where it was published, and no IO manager gets a value.
    """
    if work.pipeline.published_io is None:
        return dg.MaterializeResult().value
    _, table = work.files.table.read()
    return table.collect(engine="streaming")


def title_assets(pipeline: Pipeline) -> list[dg.AssetKey]:
    """The asset of the titles, for `deps`; empty if the pipeline declares none."""
    return [pipeline.asset_key("item_titles")] if pipeline.has_titles else []


def describe_list_columns(pipeline: Pipeline) -> str:
    """The columns that lists have besides the usual ones, in words; empty without any."""
    if pipeline.recommendations.columns is None:
        return ", with titles" if pipeline.has_titles else ""
    names = map(name_published_column, pipeline.recommendations.columns)
    return "".join(f", {name}" for name in names)


def attribute_assets(pipeline: Pipeline) -> list[dg.AssetKey]:
    """The assets of what is known of items and users, for `deps`, as far as lists need them."""
    settings = pipeline.recommendations
    rules = settings.rules
    is_read = {
        "items": (rules is not None and rules.reads_items)
        or bool(list_attribute_columns(pipeline)),
        "users": isinstance(settings.newcomers, PopularBy)
        or (rules is not None and rules.reads_users),
    }
    return [pipeline.asset_key(asset) for asset, read in is_read.items() if read]


def list_checks(pipeline: Pipeline) -> dict[str, str]:
    """What each check of lists for users checks that blocks, by its name."""
    seen_check = {
        "no_seen_items": "No list contains an item that its user already interacted with."
    }
    rules_check = {"lists_not_emptied": "The rules leave nearly everybody a list."}
    return {
        "quality_gate": "The model is good enough to publish its lists.",
        "every_user_answered": "Every requested user has exactly one result, and somebody a list.",
        "no_failed_users": "Few enough users have an error instead of items:"
        " recommendations.max_failed_share.",
        "no_duplicates": "No list contains an item twice.",
        **(seen_check if pipeline.recommendations.seen_items is not None else {}),
        **(rules_check if pipeline.recommendations.rules is not None else {}),
        **budget_check(pipeline),
    }


def list_warnings(pipeline: Pipeline) -> dict[str, str]:
    """The same of checks that only warn."""
    items_check = {"items_known": "Most items in the lists are in the items file."}
    rule_checks = {
        "rules_suit_data": "Each rule has what it needs: events, categories, possible pins.",
        "results_enough_for_rules": "The rules leave nearly all users enough results.",
    }
    titles_check = {ROWS_TITLED: "Nearly all rows have a title."}
    return {
        "lists_full": f"Every user has all {pipeline.recommendations.num_results} items.",
        **(items_check if pipeline.items else {}),
        **(titles_check if "title" in pipeline.list_columns else {}),
        **(rule_checks if pipeline.recommendations.rules is not None else {}),
    }


def _lists_metadata(
    work: PersonalizeWork, lists: "PublishedLists", model: ModelRecord
) -> dict[str, Any]:
    job = lists.job
    return {
        **describe_table(work.pipeline, lists.table),
        "results_asked_for": lists.num_results,
        **dataset_group_link(model.dataset_group_arn, on_aws=work.ensure.on_aws),
        "batch_inference_job_arn": job.arn,
        "batch_inference_output": JobOutput(work.storage, job.description).folder,
        "outcome": lists.outcome,
        "inference_seconds": measure_job_seconds(job),
        **build_cost_metadata("cost_usd", lists.cost, on_aws=work.ensure.on_aws),
        **published_metadata(work, lists.edition),
        **storage_links("table", work.storage, lists.edition.uri),
    }


def describe_table(pipeline: Pipeline, table: "RecommendationTable") -> dict[str, Any]:
    """The metadata of a published table of lists for users, whatever made them."""
    counts = asdict(table.counts)
    rows = counts.pop("rows")
    return {
        "preview": _preview(table),
        **_rules_metadata(table),
        **_popularity_metadata(table),
        **table_metadata(
            pipeline,
            rows,
            _describe_columns(pipeline),
            _trace_columns(pipeline),
            table.sample.columns,
        ),
        **counts,
        "sample": sample_metadata(table.sample),
    }


def _rules_metadata(table: "RecommendationTable") -> dict[str, Any]:
    """What each rule did, and how many categories a list has, where that is known."""
    metadata: dict[str, Any] = {}
    rules, diversity = table.facts.get("rules"), table.facts.get("diversity")
    if rules:
        metadata["rules"] = dg.MetadataValue.md(markdown_table(RULE_COLUMNS, list_rule_rows(rules)))
        for rule in rules:
            # Dagster plots these over the runs.
            count = "added" if rule["rule"] in ("at_least", "pin") else "removed"
            metadata[f"rule_{rule['rule']}_{count}"] = rule[count]
        metadata["lists_short_of_results"] = table.facts["filled"]["short_of_model"]
        metadata["popular_rows"] = table.facts["filled"]["popular_rows"]
    costs = table.facts.get("rule_costs")
    if costs:
        metadata["rule_costs"] = dg.MetadataValue.md(
            f"{describe_costs(costs)}\n\n{markdown_table(COST_COLUMNS, list_cost_rows(costs))}"
        )
        for rule in costs["rules"]:
            metadata[f"rule_{rule['rule']}_ndcg_change"] = rule["change"]
    if diversity:
        metadata["categories_per_list"] = diversity["values_per_list"]
        metadata["lists_of_one_category"] = diversity["lists_of_one"]
    for reason, count in table.facts.get("reasons", {}).items():
        metadata[f"reason_{reason}"] = count
    return metadata


def _popularity_metadata(table: "RecommendationTable") -> dict[str, Any]:
    """Which items were popular, if lists have any, and how many users have no interactions."""
    metadata: dict[str, Any] = {}
    popularity, newcomers = table.facts.get("popularity"), table.facts.get("newcomers")
    if popularity:
        metadata["popularity"] = popularity
    if newcomers:
        metadata["newcomers"] = newcomers["users"]
    return metadata


def published_metadata(work: PersonalizeWork, edition: Edition) -> dict[str, Any]:
    return {"dagster/uri": work.files.table.uri, "edition": edition.number}


def _preview(table: "RecommendationTable") -> dg.MetadataValue[Any]:
    counts = (
        f"**{table.counts.users:,} users** have a list.",
        f"{table.counts.items:,} different items are in them.",
    )
    if not table.sample.height:
        return preview_metadata(*counts)
    user = table.sample.item(0, "user_id")
    first_list = table.sample.filter(pl.col("user_id") == user)
    items = [row.get("title") or row["item_id"] for row in first_list.iter_rows(named=True)]
    return preview_metadata(*counts, f"User {escape(user)} gets:", format_numbered_list(items))


def roll_back(
    work: PersonalizeWork,
    context: dg.AssetExecutionContext,
    to: str,
    delete_unneeded: Callable[[PersonalizeWork, Collection[str]], None],
) -> dg.MaterializeResult[Any]:
    """Publish the lists of an older edition again, with its checks. Raises StepError.

    to: an edition's number, or PREVIOUS.
    delete_unneeded: deletes what no kept edition needs, except the outputs of some jobs.
    """
    runs = DagsterRuns(context.instance)
    absent = republish(work, to, find_root_run(context), runs, context.log).absent
    delete_unneeded(work, [])
    edition, lists = work.files.table.read()
    about = edition.about
    budget_checks = check_budget(work, [])
    names = [spec.name for spec in context.assets_def.check_specs if spec.name != WITHIN_BUDGET]
    outcome = f"rolled back to {summarize_edition(edition)}"
    if absent.description:
        outcome += f"; {absent.description}"
    return materialization_with_checks(
        [*read_checks(edition, names), *budget_checks],
        dg.MaterializeResult(
            value=load_own_value(work),
            data_version=dg.DataVersion(edition.version),
            metadata={
                "outcome": outcome,
                "dagster/row_count": lists.select(pl.len()).collect(engine="streaming").item(),
                **{
                    key: about[key]
                    for key in ("items", "made_at", "solution_version_arn")
                    if key in about
                },
                **({"users": edition.users} if edition.users is not None else {}),
                **({"users_dropped": edition.users_dropped} if edition.users_dropped else {}),
                **published_metadata(work, edition),
                "table": work.storage.where(work.files.table.uri),
            },
        ),
    )


MAX_SEGMENTS_SHOWN = 10
SEGMENT_COLUMNS = {
    "segment": ("string", "What the users belong to: an item's id, or an expression on items."),
    "title": ("string", "The item's title; null where the items file has none."),
    "rank": ("int", "1 is the user who belongs to the segment most."),
    "user_id": ("string", "The user's id."),
}


SEGMENTS_COLUMN_LINEAGE: dict[str, list[tuple[str, str]]] = {
    "segment": [],
    "title": [("item_titles", "title")],
    "rank": [("interactions", USER_ID), ("interactions", ITEM_ID)],
    "user_id": [("interactions", USER_ID)],
}


def user_segments(pipeline: Pipeline, segments: Segments) -> dg.AssetsDefinition:
    """The asset of the users who belong to each segment."""
    titles = title_assets(pipeline) if segments.items else []
    columns = ", ".join(name for name in SEGMENT_COLUMNS if titles or name != "title")

    @dg.asset(
        **asset_options(
            pipeline,
            "user_segments",
            description=f"The {segments.users_per_segment:,} users who belong most to each of"
            f" {len(segments.queries):,} segments, as one table of {columns}.",
            kinds={"personalize", "parquet"},
            inputs=["segment_solution_version"],
            deps=titles,
            resources=["personalize"],
            storage_key=pipeline.storage_keys.user_segments,
            code_version=f"{CODE_VERSION}-{fingerprint(segments, *titles)}",
            io_manager="parquet_io",
            checks={
                "every_segment_answered": "Every requested segment has exactly one result.",
                "no_failed_segments": "No segment has an error instead of users.",
                "no_duplicates": "No segment contains a user twice.",
                **budget_check(pipeline),
            },
        )
    )
    @asset_step
    def user_segments(
        context: dg.AssetExecutionContext, segment_solution_version: ModelRecord
    ) -> dg.MaterializeResult[Any]:
        work = get_personalize_work(pipeline, context)
        with work.step_lease("user_segments", context.run.run_id):
            segmentation = segment_users(
                work, segments, segment_solution_version, run=find_root_run(context)
            )
        return materialization_with_checks(
            segmentation.checks,
            dg.MaterializeResult(
                data_version=dg.DataVersion(segmentation.version),
                metadata=_segments_metadata(work, segments, segmentation, segment_solution_version),
            ),
        )

    return user_segments


def _segments_metadata(
    work: PersonalizeWork, segments: Segments, segmentation: UserSegments, model: ModelRecord
) -> dict[str, Any]:
    table, job = segmentation.table, segmentation.job
    columns = table.sample.columns
    return {
        "preview": preview_metadata(
            f"**{len(table.sizes):,} segments** have users. The first:",
            markdown_table(["segment", "users"], table.sizes.head(MAX_SEGMENTS_SHOWN).iter_rows()),
        ),
        **table_metadata(
            work.pipeline, table.rows, SEGMENT_COLUMNS, SEGMENTS_COLUMN_LINEAGE, columns
        ),
        "segments": len(table.sizes),
        "empty_segments": len(segments.queries) - len(table.sizes),
        "users": len(table.users),
        "batch_segment_job_arn": job.arn,
        "batch_segment_output": JobOutput(work.storage, job.description).folder,
        "outcome": describe_outcome(job, "segmented"),
        "inference_seconds": measure_job_seconds(job),
        "sample": sample_metadata(table.sample),
        "dagster/uri": segmentation.uri,
        **storage_links("table", work.storage, segmentation.uri),
        **dataset_group_link(model.dataset_group_arn, on_aws=work.ensure.on_aws),
        **build_cost_metadata("cost_usd", segmentation.cost, on_aws=work.ensure.on_aws),
    }
