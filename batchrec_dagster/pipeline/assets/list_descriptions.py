"""Descriptions of published lists on Dagster's page: the asset, columns, checks and metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.list_columns import name_published_column
from batchrec_dagster.config.list_table import ItemLists, SegmentLists, UserLists
from batchrec_dagster.editions.edition import Edition, ListCounts
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.personalize.measurements import COVERAGE, NDCG
from batchrec_dagster.pipeline.results import (
    build_cost_metadata,
    build_dataset_group_link,
    build_preview,
    build_sample,
    build_storage_links,
    build_table_metadata,
)
from batchrec_dagster.reporting.insight.verdict import give_verdict
from batchrec_dagster.reporting.markdown import escape, format_numbered_list
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.items import list_attribute_columns
from batchrec_dagster.steps.judge.verdicts import DATA_ARE_FRESH, NO_WORSE
from batchrec_dagster.steps.records import ModelRecord

if TYPE_CHECKING:
    from batchrec_dagster.steps.lists.make import ListsResult

# The type and the description of the columns that lists can have, apart from item columns.
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


@dataclass(frozen=True)
class KindDescription:
    """The texts on Dagster's page that depend on the kind of lists."""

    describe: Callable[[Any], str]
    """A function that describes the asset of the lists in words."""
    columns: Mapping[str, tuple[str, str]]
    """The columns whose type or description differs from that in COLUMNS."""
    members: str
    """The name of the number of different ids on the lists, in the metadata."""
    job: str
    """The prefix of the batch job's names in the metadata."""
    listed: str
    """The plural noun for the ids on the lists, in the preview."""
    example: str | None
    """The words before "gets:" in the preview's example; `{}` stands for the subject's id.

    None for no example: Dagster's history would never forget a user.
    """


def _describe_user_lists(published: UserLists) -> str:
    settings = published.settings
    purpose = ""
    if published.name and published.description:
        purpose = f"{published.description.rstrip('.')}. "
    arm = ", and arm" if published.experiment else ""
    without_seen = ""
    if settings.excludes_all_seen:
        without_seen = " Items that a user already had are left out."
    return (
        f"{purpose}The published table: the top {settings.num_results} items for every user, as"
        f" user_id, rank, item_id and score{_list_columns(published)}{arm}."
        f"{without_seen}"
    )


def _describe_item_lists(published: ItemLists) -> str:
    similarity = f"are similar, by the recipe {published.recipe}"
    if published.recipe is None:
        similarity = "people had together, as batchrec counts them"
    return (
        f"The published table: up to {published.settings.num_results} items for each item, which"
        f" {similarity}, as item_id, rank, similar_item_id and score{_list_columns(published)}."
    )


def _describe_segment_lists(published: SegmentLists) -> str:
    return (
        f"The {published.settings.num_results:,} users who belong most to each segment, as one"
        " table of segment, rank and user_id."
    )


def _list_columns(published: ListTable) -> str:
    return "".join(f", {name_published_column(name)}" for name in published.columns)


KINDS: Mapping[type[ListTable], KindDescription] = {
    UserLists: KindDescription(
        describe=_describe_user_lists,
        columns={},
        members="items",
        job="batch_inference",
        listed="items",
        example="One of them",
    ),
    ItemLists: KindDescription(
        describe=_describe_item_lists,
        columns={
            "item_id": ("string", "The item whose list it is."),
            "rank": ("int", "1 goes with it best."),
            "similar_item_id": ("string", "The item that goes with it."),
            "score": (
                "float",
                "Of items bought together: from 0 to 1, how much the people who had both are more"
                " than chance. Null: a recipe gives none.",
            ),
        },
        members="similar_items",
        job="batch_inference",
        listed="items",
        example="Item {}",
    ),
    SegmentLists: KindDescription(
        describe=_describe_segment_lists,
        columns={
            "segment": (
                "string",
                "What the users belong to: an item's id, or an expression on items.",
            ),
            "rank": ("int", "1 is the user who belongs to the segment most."),
        },
        members="users",
        job="batch_segment",
        listed="users",
        example=None,
    ),
}


def describe_asset(published: ListTable) -> str:
    """Return a description of the lists' asset, in words."""
    return KINDS[type(published)].describe(published)


def list_checks(published: ListTable) -> dict[str, str]:
    """Return the description of each blocking check of published lists, by check name."""
    noun = published.subject.noun
    checks = {
        "quality_gate": "The model is good enough to publish its lists.",
        f"every_{noun}_answered": f"Every requested {noun} has exactly one result, and some"
        f" {noun} a list.",
        f"no_failed_{noun}s": f"Few enough {noun}s have an error instead of a list.",
        "no_duplicates": "No list contains an item twice.",
    }
    seen = published.settings.seen_items
    if seen is not None:
        checks["no_seen_items"] = f"No list contains {seen.description}."
    max_age = published.gate.max_age_days
    if max_age is not None:
        checks[DATA_ARE_FRESH] = f"The newest interaction is at most {max_age:g} days old."
    if published.is_for_people and published.settings.applied_rules is not None:
        checks["lists_not_emptied"] = "The rules leave nearly everybody a list."
    return checks


def list_warnings(published: ListTable) -> dict[str, str]:
    """Return the description of each check that only warns, by the check's name."""
    warnings = {NO_WORSE: "The model is no worse than that of the lists before."}
    if published.is_for_people:
        length = published.settings.num_results
        warnings |= {
            "lists_full": f"Nearly every user has all {length} items.",
            "people_have_lists": "Nearly everybody for whom lists were made has one.",
            "not_concentrated": "The lists are not mostly of few items.",
            "no_user_dominates": "No single user has much of the interactions.",
            "data_stable": "There are about as many data, of the same kinds, as before.",
        }
        if published.settings.applied_rules is not None:
            warnings |= {
                "rules_suit_data": "Each rule has what it needs: events, categories, possible"
                " pins.",
                "results_enough_for_rules": "The rules leave nearly all users enough results.",
            }
    if isinstance(published, ItemLists):
        warnings |= {
            "items_have_lists": "Most of the requested items have a list.",
            "requested_items_known": "All requested items are in the interactions or the items"
            " file.",
        }
    if published.shows_titles:
        warnings["rows_titled"] = "Nearly all results for the lists have a title."
    if published.has_items and published.pipeline.items:
        warnings["items_known"] = "Most items in the lists are in the items file."
    return warnings


def build_metadata(
    step: StepContext,
    published: ListTable,
    result: ListsResult,
    model: ModelRecord | None,
) -> dict[str, Any]:
    """Return the metadata of published lists. Dagster's page shows the first entries at the top."""
    edition, job, counts = result.edition, result.job, result.edition.counts
    metadata: dict[str, Any] = {
        "preview": _build_list_preview(published, result),
        "outcome": result.outcome,
        "verdict": escape(str(give_verdict(result.findings))),
        **build_edition_metadata(step.files_of(published), edition),
        **_describe_rules(edition),
        **build_table_metadata(counts.rows, _describe_columns(published), result.sample.columns),
        **_build_counts(published, counts),
        "results_asked_for": edition.results_asked_for or 0,
    }
    if not published.subject.names_users:
        # Dagster's history would never forget the ids of users.
        metadata["sample"] = build_sample(result.sample)
    if model is not None:
        metadata |= build_dataset_group_link(model.dataset_group_arn, on_aws=step.resources.on_aws)
    prefix = KINDS[type(published)].job
    metadata[f"{prefix}_job_arn"] = edition.job_arn
    if job is not None:
        metadata[f"{prefix}_output"] = job.output(step.storage).folder
        metadata["inference_seconds"] = job.resource.seconds
    cost = [] if job is None else job.cost
    metadata |= build_cost_metadata("cost_usd", cost, on_aws=step.resources.on_aws)
    return {**metadata, **build_storage_links("table", step.storage, edition.uri)}


def _build_counts(published: ListTable, counts: ListCounts) -> dict[str, int]:
    """Return the table's counts, under names that suit users' lists, items' lists or segments."""
    subjects = published.subject.name
    numbers = {
        subjects: counts.subjects,
        KINDS[type(published)].members: counts.items,
        f"failed_{subjects}": counts.failed,
    }
    if published.is_for_people:
        numbers["seen_items_dropped"] = counts.seen_items_dropped
        numbers["items_without_score"] = counts.items_without_score
    return numbers


def build_edition_metadata(files: ListFiles, edition: Edition) -> dict[str, Any]:
    """Return the number of the published edition, and the metrics of its model if it has one."""
    metrics = edition.metrics
    return {
        "edition": edition.number,
        "ndcg_at_25": metrics.get(NDCG),
        "coverage": metrics.get(COVERAGE),
        "dagster/uri": files.editions.uri,
    }


def _describe_columns(published: ListTable) -> dict[str, tuple[str, str]]:
    """Return the type and the description of each column that the lists can have."""
    items = published.pipeline.items
    numbers = items.layout.numbers if items else {}
    item_columns = {
        name_published_column(name): (
            "double" if name in numbers else "string",
            f"The item's {name}; null where the items file has none.",
        )
        for name in list_attribute_columns(published)
    }
    return {**COLUMNS, **KINDS[type(published)].columns, **item_columns}


def _describe_rules(edition: Edition) -> dict[str, Any]:
    """Return the metadata about rules, filled lists, reasons, popular items and newcomers."""
    filled, newcomers = edition.filled, edition.newcomers
    return {
        "rules": [asdict(counts) for counts in edition.rules],
        "lists_short_of_results": 0 if filled is None else filled.short_of_model,
        "popular_rows": 0 if filled is None else filled.popular_rows,
        "reasons": dict(edition.reasons),
        "popularity": {} if edition.popularity is None else edition.popularity.model_dump(),
        "newcomers": 0 if newcomers is None else newcomers.users,
    }


def _build_list_preview(published: ListTable, result: ListsResult) -> dg.MetadataValue[Any]:
    """Return the number of subjects with a list, and an example list."""
    counts, sample, subject = result.edition.counts, result.sample, published.subject
    kind = KINDS[type(published)]
    numbers = (
        f"**{counts.subjects:,} {subject.name}** have a list.",
        f"{counts.items:,} different {kind.listed} are in them.",
    )
    if not sample.height or kind.example is None:
        return build_preview(*numbers)
    first = sample.item(0, subject.column)
    rows = sample.filter(pl.col(subject.column) == first).iter_rows(named=True)
    listed = [row.get("title") or row[subject.member_column] for row in rows]
    example = kind.example.format(escape(first))
    return build_preview(*numbers, f"{example} gets:", format_numbered_list(listed))
