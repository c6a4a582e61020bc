"""The table of recommendations, built from a batch inference's output, before it is published."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.list_columns import name_published_column
from batchrec_dagster.personalize.file_formats import read_inference
from batchrec_dagster.steps.batch_jobs import JobOutput, log_progress
from batchrec_dagster.steps.batches import DividedUsers
from batchrec_dagster.steps.checks import (
    check_items_known,
    name_list_settings,
)
from batchrec_dagster.steps.edition_interactions import EditionInteractions
from batchrec_dagster.steps.items import read_item_columns, read_item_ids
from batchrec_dagster.steps.list_builder import ListBuilder, ListInputs, RecommendationTable
from batchrec_dagster.steps.list_rules import (
    check_lists_not_emptied,
    check_results_enough,
    describe_rules,
)
from batchrec_dagster.steps.popular_items import make_popular_lines
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.progress import Progress

# What an edition's metadata have besides `ListCounts`, where there is something to say: what each
# rule did, and how lists were filled then.
RULES, FILLED = "rules", "filled"
# Besides, which items were popular, if lists have such items, and what newcomers got.
POPULARITY, NEWCOMERS = "popularity", "newcomers"
# And how many rows have each reason.
REASON_COUNTS = "reasons"
LIST_FACTS = (RULES, FILLED, POPULARITY, NEWCOMERS, REASON_COUNTS)


def build_table(
    work: PersonalizeWork,
    published: PublishedList,
    output: JobOutput,
    users: DividedUsers,
    interactions: EditionInteractions,
    table: ListWriter,
    *,
    num_results: int,
) -> RecommendationTable:
    """Write the table from the job's output and of popular items.

    users: who gets which of them.
    num_results: how many results the job was asked for, for each user.
    Raises UserError, and UserError if the output cannot be read.
    """
    settings, rules = published.settings, interactions.rules
    rules.start()
    reasons = interactions.reasons
    if reasons is not None:
        reasons.start()
    lists = ListBuilder(
        ListInputs(
            settings.num_results,
            rules,
            item_columns=read_item_columns(work, published),
            columns=[name_published_column(name) for name in published.columns],
            experiment=published.experiment,
            max_failed_share=settings.max_failed_share,
            popular=interactions.popular,
            is_ruled=settings.applied_rules is not None,
            says_what_is_added=settings.lists_have_reasons,
            reasons=reasons,
        )
    )
    progress = Progress("users' lists written", len(users.of_model.ids), work.ensure.log.debug)
    lists.write(log_progress(output.pieces(read_inference), progress), table)
    popular = interactions.popular
    if popular is not None and users.popular.height:
        ids = users.popular.get_column("user_id")
        length = pl.Series([num_results]).new_from_index(0, len(ids))
        lines = make_popular_lines(users.popular.with_columns(length=length), popular.by_reason)
        lists.write(log_progress(lines, progress), table)
    progress.end()
    built = lists.finish(users.ids, filtered=settings.filter is not None)
    checks = [*built.checks]
    facts: dict[str, Any] = {}
    if popular is not None:
        facts[POPULARITY] = popular.describe()
    if users.newcomers is not None:
        facts[NEWCOMERS] = {
            "users": users.newcomers,
            "get": settings.model_dump(mode="json")["newcomers"],
        }
    if work.pipeline.items is not None:
        checks.append(check_items_known(lists.items, read_item_ids(work), settings.open_filter))
    if settings.applied_rules is not None:
        checks += interactions.rule_checks
        checks += [
            check_lists_not_emptied(rules, published.gate.max_emptied_share),
            check_results_enough(rules, num_results, work.ensure.max_results),
        ]
        facts[RULES] = describe_rules(rules)
        facts[FILLED] = asdict(rules.filled)
    if reasons is not None:
        facts[REASON_COUNTS] = dict(reasons.counts)
    checks = [name_list_settings(check, published.setting) for check in checks]
    return replace(built, checks=checks, facts=facts)
