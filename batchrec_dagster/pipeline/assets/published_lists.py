"""What the assets of published lists share: columns, checks, metadata and rollback."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl
from pydantic import Field

from batchrec_dagster.config import Pipeline, PublishedList
from batchrec_dagster.config.list_columns import name_published_column
from batchrec_dagster.config.recommendations import PopularBy
from batchrec_dagster.personalize.evidence import COVERAGE, NDCG
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.declare_asset import preview_metadata, table_metadata
from batchrec_dagster.pipeline.run_endings import find_root_run, find_run_start
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.pipeline.run_step import materialization_with_checks
from batchrec_dagster.reporting.markdown import format_numbered_list
from batchrec_dagster.reporting.markdown import format_table as markdown_table
from batchrec_dagster.reporting.rules import RULE_COLUMNS, list_rule_rows
from batchrec_dagster.steps import rollback
from batchrec_dagster.steps.checks import ROWS_TITLED
from batchrec_dagster.steps.items import list_attribute_columns
from batchrec_dagster.steps.publish import read_checks, summarize_edition
from batchrec_dagster.steps.runs import RunFacts
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.extras import is_installed
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.lock import Lock

if TYPE_CHECKING:
    from batchrec_dagster.steps.list_builder import RecommendationTable


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
        "The item of the user's own that has most users in common with this one.",
    ),
    "reason_title": ("string", "The title of reason_item; null where the items file has none."),
    "reason_event": (
        "string",
        "What the user did with reason_item: the strongest type of event that they have.",
    ),
    "arm": (
        "string",
        "The user's arm of the experiment: model, or control, which gets popular items or nothing.",
    ),
}


def _describe_columns(published: PublishedList) -> dict[str, tuple[str, str]]:
    """The type and the description of each column that the lists can have."""
    items = published.pipeline.items
    described = {
        name_published_column(name): (
            "double" if items is not None and name in items.layout.numbers else "string",
            f"The item's {name}; null where the items file has none.",
        )
        for name in list_attribute_columns(published)
    }
    return {**COLUMNS, **described}


def describe_run(context: dg.AssetExecutionContext, config: PublicationConfig) -> RunFacts:
    """What a step has to know of the run that publishes."""
    return RunFacts(
        context.run.run_id,
        find_root_run(context),
        find_run_start(context),
        config.skip_quality_gate,
    )


def title_assets(pipeline: Pipeline) -> list[dg.AssetKey]:
    """The asset of the titles, for `deps`; empty if the pipeline declares none."""
    return [asset_key(pipeline, "item_titles")] if pipeline.has_titles else []


def describe_list_columns(published: PublishedList) -> str:
    """The columns that lists have besides the usual ones, in words; empty without any."""
    if published.settings.columns is None:
        return ", with titles" if published.pipeline.has_titles else ""
    names = map(name_published_column, published.settings.columns)
    return "".join(f", {name}" for name in names)


def attribute_assets(published: PublishedList) -> list[dg.AssetKey]:
    """The assets of what is known of items and users, for `deps`, as far as lists need them."""
    settings = published.settings
    rules = settings.rules
    is_read = {
        "items": settings.rules_read_items or bool(list_attribute_columns(published)),
        "users": isinstance(settings.newcomers, PopularBy)
        or (rules is not None and rules.reads_users),
    }
    return [asset_key(published, asset) for asset, read in is_read.items() if read]


def outcome_assets(published: PublishedList) -> list[dg.AssetKey]:
    """The asset of what people did with earlier lists, for `deps`: it is read before lists are
    made. Without the extra `report` there is none."""
    has_outcomes = is_installed("report")
    return [asset_key(published, "recommendation_outcomes")] if has_outcomes else []


def list_checks(published: PublishedList) -> dict[str, str]:
    """What each check of published lists checks that blocks, by its name."""
    if published.subject == "item":
        subject_checks = {
            "every_item_answered": "Every requested item has exactly one result, and some item a"
            " list.",
            "no_failed_items": "Few enough items have an error instead of similar items.",
        }
        emptied_check = {"lists_not_emptied": "The rules leave nearly every item a list."}
    else:
        subject_checks = {
            "every_user_answered": "Every requested user has exactly one result, and somebody a"
            " list.",
            "no_failed_users": "Few enough users have an error instead of items:"
            " recommendations.max_failed_share.",
        }
        emptied_check = {"lists_not_emptied": "The rules leave nearly everybody a list."}
    seen_check = {
        "no_seen_items": "No list contains an item that its user already interacted with."
    }
    return {
        "quality_gate": "The model is good enough to publish its lists.",
        **subject_checks,
        "no_duplicates": "No list contains an item twice.",
        **(seen_check if published.settings.seen_items is not None else {}),
        **(emptied_check if published.settings.applied_rules is not None else {}),
    }


def list_warnings(published: PublishedList) -> dict[str, str]:
    """The same of checks that only warn."""
    if published.subject == "item":
        subject_checks = {
            "items_have_lists": "Most of the requested items have a list.",
            "requested_items_known": "All requested items are in the interactions or the items"
            " file.",
        }
    else:
        subject_checks = {
            "lists_full": f"Every user has all {published.settings.num_results} items."
        }
        if published.settings.applied_rules is not None:
            subject_checks |= {
                "rules_suit_data": "Each rule has what it needs: events, categories, possible"
                " pins.",
                "results_enough_for_rules": "The rules leave nearly all users enough results.",
            }
    items_check = {"items_known": "Most items in the lists are in the items file."}
    titles_check = {ROWS_TITLED: "Nearly all results have a title."}
    return {
        **subject_checks,
        **(items_check if published.pipeline.items else {}),
        **(titles_check if "title" in published.columns else {}),
    }


def describe_table(
    published: PublishedList, edition: Edition, table: "RecommendationTable"
) -> dict[str, Any]:
    """The metadata of a published table of lists for users."""
    counts = table.counts
    return {
        "preview": _preview(table),
        **_rules_metadata(edition),
        **_popularity_metadata(edition),
        **table_metadata(counts.rows, _describe_columns(published), table.sample.columns),
        "users": counts.subjects,
        "items": counts.items,
        "seen_items_dropped": counts.seen_items_dropped,
        "items_without_score": counts.items_without_score,
        "failed_users": counts.failed,
    }


def _rules_metadata(edition: Edition) -> dict[str, Any]:
    """What each rule did, and how many rows have each reason, where that is known."""
    metadata: dict[str, Any] = {}
    if edition.rules:
        metadata["rules"] = dg.MetadataValue.md(
            markdown_table(RULE_COLUMNS, list_rule_rows(edition.rules))
        )
    for counts in edition.rules:
        # Dagster plots these over the runs.
        if counts.rule == "pin":
            metadata["rule_pin_added"] = counts.added
        else:
            metadata[f"rule_{counts.rule}_removed"] = counts.removed
    if edition.filled is not None:
        metadata["lists_short_of_results"] = edition.filled.short_of_model
        metadata["popular_rows"] = edition.filled.popular_rows
    for reason, count in edition.reasons.items():
        metadata[f"reason_{reason}"] = count
    return metadata


def _popularity_metadata(edition: Edition) -> dict[str, Any]:
    """Which items were popular, if lists have any, and how many users have no interactions."""
    metadata: dict[str, Any] = {}
    if edition.popularity is not None:
        metadata["popularity"] = edition.popularity.model_dump()
    if edition.newcomers is not None:
        metadata["newcomers"] = edition.newcomers.users
    return metadata


def published_metadata(files: ListFiles, edition: Edition) -> dict[str, Any]:
    """Which edition is published, and how good the model is that made it, if one did."""
    metrics = edition.metrics
    numbers = {"ndcg_at_25": metrics.get(NDCG), "coverage": metrics.get(COVERAGE)}
    return {
        "edition": edition.number,
        # Dagster plots these over the runs: a plot of integers would lose the decimals.
        **{name: float(number) for name, number in numbers.items() if number is not None},
        "dagster/uri": files.editions.uri,
    }


def _preview(table: "RecommendationTable") -> dg.MetadataValue[Any]:
    counts = (
        f"**{table.counts.subjects:,} users** have a list.",
        f"{table.counts.items:,} different items are in them.",
    )
    if not table.sample.height:
        return preview_metadata(*counts)
    user = table.sample.item(0, "user_id")
    first_list = table.sample.filter(pl.col("user_id") == user)
    items = [row.get("title") or row["item_id"] for row in first_list.iter_rows(named=True)]
    return preview_metadata(*counts, "One of them gets:", format_numbered_list(items))


def roll_back(
    work: PersonalizeWork,
    published: PublishedList,
    context: dg.AssetExecutionContext,
    to: str,
    lock: Lock,
    delete_unneeded: Callable[[], None],
) -> dg.MaterializeResult[Any]:
    """Publish the lists of an older edition again, with its checks. Raises UserError.

    to: an edition's number, or PREVIOUS.
    lock: that of the list.
    delete_unneeded: deletes what no kept edition needs.
    """
    runs = DagsterRuns(context.instance)
    root_run = find_root_run(context)
    restoration = rollback.roll_back(work, published, to, root_run, runs, lock, context.log)
    delete_unneeded()
    table = work.files_of(published).editions
    edition, lists = table.read()
    names = [spec.name for spec in context.assets_def.check_specs]
    outcome = "; ".join([f"rolled back to {summarize_edition(edition)}", *restoration.notes])
    return materialization_with_checks(
        read_checks(edition, names),
        dg.MaterializeResult(
            data_version=dg.DataVersion(edition.version),
            metadata={
                "outcome": outcome,
                "dagster/row_count": lists.select(pl.len()).collect(engine="streaming").item(),
                "items": edition.counts.items,
                "made_at": edition.made_at.isoformat(),
                **(
                    {"solution_version_arn": edition.solution_version_arn}
                    if edition.solution_version_arn is not None
                    else {}
                ),
                **({"users": edition.users} if edition.users is not None else {}),
                **({"users_dropped": edition.users_dropped} if edition.users_dropped else {}),
                **published_metadata(work.files_of(published), edition),
                "table": work.storage.where(table.uri),
            },
        ),
    )
