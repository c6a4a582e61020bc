"""Checks of a table of lists for users, items or segments, made before its publication."""

from __future__ import annotations

import re

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.list_table import ItemLists
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.editions.edition import Finding, Numbers, refuse_unless, watch_unless
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.items import read_item_ids
from batchrec_dagster.steps.findings import is_share_allowed
from batchrec_dagster.steps.lists.audience import MAX_IDS_NAMED, list_ids
from batchrec_dagster.steps.lists.rows import RowBuilder
from batchrec_dagster.steps.lists.rule_checks import (
    check_lists_not_emptied,
    check_no_seen_items,
    check_results_enough,
    check_rules_suit_data,
)
from batchrec_dagster.steps.thresholds import (
    FEW_KNOWN,
    FEW_LISTS_OF_ITEMS,
    FEW_SHORT,
    FEW_UNTITLED,
)


def check_table(
    step: StepContext,
    published: ListTable,
    subjects: pl.Series,
    rows: RowBuilder,
    num_results: int,
) -> list[Finding]:
    """Check a table of lists after all its rows are written.

    subjects: the ids of all users, items or segments that were to get a list.
    num_results: the number of results per line that the job was asked for.
    Raises UserError.
    """
    noun, settings, failed = published.subject.noun, published.settings, rows.failed
    max_failed_share, failure_setting = published.failure_limit
    findings = [
        check_every_answered(
            noun, subjects, rows.answered, why_empty=explain_empty_table(published, rows)
        ),
        check_no_failed(
            noun,
            failed.height,
            len(rows.answered),
            next(failed.iter_rows(), None),
            max_failed_share,
            failure_setting,
        ),
        check_no_duplicates(rows.repeated, "item" if published.has_items else "user"),
    ]
    if isinstance(published, ItemLists):
        with_list, length = rows.counts.subjects, settings.num_results
        findings.append(check_items_have_lists(len(subjects), with_list, rows.full, length))
    if published.is_for_people:
        findings += check_user_lists(step, published, rows, num_results)
    if published.shows_titles:
        left_out = 0 if rows.rules is None else rows.rules.count_untitled()
        findings.append(check_rows_titled(rows.counts.rows, left_out))
    if published.has_items and step.pipeline.items is not None:
        known_items, listed_items = read_item_ids(step), rows.listed.get_column("item")
        findings.append(
            check_items_known(listed_items, known_items, published.setting, settings.open_filter)
        )
    return findings


def check_user_lists(
    step: StepContext, published: ListTable, rows: RowBuilder, num_results: int
) -> list[Finding]:
    """Make the checks that only lists of users need: of their length and of the rules' effect.

    num_results: the number of results per line that the job was asked for.
    Raises UserError.
    """
    settings, rules, setting = published.settings, rows.rules, published.setting
    users = len(rows.answered) - rows.failed.height
    padding = rows.counts.items_without_score
    findings = [
        check_lists_full(rows.full, users, settings.num_results, settings, setting, padding=padding)
    ]
    if rules is None:
        return findings
    if settings.seen_items is not None:
        findings.append(check_no_seen_items(rules.filled.seen, settings.seen_items))
    if settings.applied_rules is not None:
        most, most_emptied = step.resources.max_results, published.gate.max_emptied_share
        findings += [
            check_rules_suit_data(settings.applied_rules, settings.seen_items, rows.inputs, rules),
            check_lists_not_emptied(rules, most_emptied, setting),
            check_results_enough(rules, num_results, most, setting),
        ]
    return findings


def explain_empty_table(published: ListTable, rows: RowBuilder) -> str | None:
    """Return the reason why no list has any item; None if a list has an item.

    Also returns None for segments, if all lines failed, and if the checks of the rules explain the
    empty lists.
    """
    if rows.counts.rows or 0 < rows.failed.height == len(rows.answered):
        return None
    return published.explain_empty_lists(has_results=rows.results > 0)


def check_every_answered(
    subject: str, requested: pl.Series, answered: pl.Series, *, why_empty: str | None = None
) -> Finding:
    """Check that every requested id has exactly one answer, and that no other id has an answer.

    subject: the kind of the ids: user, item or segment. The text counts users, but never names a
        user.
    answered: the id of each answer. An error is an answer too.
    why_empty: the reason why no list has any item; None if a list has an item. With such a reason
        the check fails, but does not make the output unusable.
    """
    missing = requested.filter(~requested.is_in(answered.implode()))
    distinct = answered.unique()
    answered_count = len(requested) - len(missing)
    repeated = len(answered) - len(distinct)
    unknown = len(distinct) - answered_count
    text = f"{answered_count:,} of {len(requested):,} {subject}s have a result"
    if len(missing) and subject == "user":
        text += f"; {len(missing):,} missing"
    elif len(missing):
        text += f"; missing: {list_ids(missing.head(MAX_IDS_NAMED), len(missing))}"
    if repeated:
        text += f"; {repeated:,} results are repeated"
    if unknown:
        text += f"; {unknown:,} results are of {subject}s that were not requested"
    is_whole = not (len(missing) or repeated or unknown)
    if is_whole and why_empty is not None:
        text += f"; all lists are empty: {why_empty}"
    return Finding(
        f"every_{subject}_answered",
        refuse_unless(is_whole and why_empty is None),
        text,
        numbers={
            f"{subject}s": len(requested),
            "missing": len(missing),
            "repeated_lines": repeated,
        },
        makes_output_unusable=not is_whole,
    )


def check_no_failed(
    subject: str,
    failed: int,
    lines: int,
    first: tuple[str, str] | None,
    max_share: float,
    setting: str,
) -> Finding:
    """Check that at most a given share of the job's lines, and not all lines, have an error.

    subject: the kind of the lines: user, item or segment.
    failed: the number of lines with an error.
    lines: the number of all lines, one for each user, item or segment.
    first: the id and the error of the first line with an error. The text leaves out a user's id.
    max_share: the largest share of lines that may fail.
    setting: the name of the setting that max_share comes from; for segments, the name of the
        setting that declares the segments.
    """
    passed = is_share_allowed(failed, lines, max_share)
    text = f"{failed:,} of {lines:,} {subject}s failed"
    if first is not None:
        name, error = first
        if subject == "segment":
            text += f"; the first, segment {name!r}: {error}; fix {setting}"
        else:
            fate = "; they have no list in this edition" if passed else ""
            named = f", item {name!r}" if subject == "item" else ""
            error = error if named else re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", error)
            text += (
                f" (at most {100 * max_share:g} % may: {setting}){fate}; the first{named}: {error}"
            )
    return Finding(
        f"no_failed_{subject}s",
        refuse_unless(passed),
        text,
        numbers={"lines": lines, "failed": failed},
        # Most failures of segments come from the segment's own query. So another job would cost
        # money and fail too.
        makes_output_unusable=subject != "segment",
    )


def check_no_duplicates(count: int, member: str = "item") -> Finding:
    """Check that no list has an item twice, and no segment a user twice.

    count: the number of repetitions.
    member: the members of a list, item or user.
    """
    text = f"{count:,} {member}s are repeated within a list"
    return Finding(
        "no_duplicates",
        refuse_unless(not count),
        text,
        numbers={"repeated": count},
        makes_output_unusable=True,
    )


def check_lists_full(
    full: int,
    answered: int,
    num_results: int,
    settings: RecommendationSettings,
    setting: str,
    *,
    padding: int = 0,
) -> Finding:
    """Check that nearly every user has a full list, apart from users with a failed line.

    full: the number of users with `num_results` items.
    answered: the number of users with a line that did not fail.
    num_results: the number of items of a full list.
    settings: the settings of the list.
    setting: the start of the settings' names, such as recommendations.
    padding: the number of popular items that Personalize added without a score.
    """
    text = f"{full:,} of {answered:,} users have all {num_results} items"
    if full < answered:
        text += "; the others have seen nearly everything that Personalize returned for them"
        if settings.filter is not None:
            text += f", or {setting}.filter excludes most of it"
        if settings.applied_rules is not None:
            text += f", or {setting}.rules leaves out most of it"
    if padding:
        text += f"; {padding:,} items without a score are popular ones that Personalize added"
    numbers: Numbers = {"users": answered, "full": full, "padding": padding}
    short = answered - full
    passed = short <= FEW_SHORT.value * answered
    headline = "" if passed else f"{short:,} of {answered:,} lists are short"
    return Finding("lists_full", watch_unless(passed), text, headline, numbers)


def check_items_have_lists(items: int, with_list: int, full: int, num_results: int) -> Finding:
    """Check that most items have a list. A failure only warns, because few people have rare items.

    items: the number of requested items.
    with_list: the number of items with a list of at least one item.
    full: the number of items with a full list.
    num_results: the number of items of a full list.
    """
    text = f"{with_list:,} of {items:,} items have a list, and {full:,} all {num_results} items"
    passed = with_list >= FEW_LISTS_OF_ITEMS.value * items
    if not passed:
        text += (
            ". Of the others, too few people had something together with them, or"
            " similar_items.rules left out all: loosen these, or set more similar_items.within_days"
            " or more similar_items.events"
        )
    numbers: Numbers = {"items": items, "with_list": with_list, "full": full}
    headline = "" if passed else f"only {with_list:,} of {items:,} items have a list"
    return Finding("items_have_lists", watch_unless(passed), text, headline, numbers)


def check_items_known(
    listed_ids: pl.Series, known_ids: pl.Series, setting: str, open_filter: str | None = None
) -> Finding:
    """Check that the items file has most of the items in the lists. A failure only warns.

    listed_ids: the distinct ids of the items in the lists.
    known_ids: the distinct ids in the items file.
    setting: the start of the names of the list's settings, such as recommendations.
    open_filter: the reason why the list's filter lets through items that the items file lacks;
        None without such a reason. With a reason, the file must have all items in the lists.
    """
    unknown = listed_ids.filter(~listed_ids.is_in(known_ids.implode()))
    known_count = len(listed_ids) - len(unknown)
    text = f"{known_count:,} of the {len(listed_ids):,} items in the lists are in the items file"
    passed = known_count >= FEW_KNOWN.value * len(listed_ids)
    if not passed:
        text += f". The lists have {unknown.min()!r}"
        text += f", the file {known_ids.min()!r}" if len(known_ids) else ""
        text += ". Check that items.columns.item and ratings.columns.item are the same id"
    if open_filter is not None and len(unknown):
        passed = False
        text += f". {setting}.filter: {open_filter}"
    numbers: Numbers = {"items": len(listed_ids), "known": known_count}
    headline = "" if passed else f"the items file lacks {len(unknown):,} items of the lists"
    return Finding("items_known", watch_unless(passed), text, headline, numbers)


def check_rows_titled(rows: int, left_out: int) -> Finding:
    """Check that nearly all results for the lists have a title. A failure only warns.

    rows: the number of results on lists.
    left_out: the number of results that were left out because they have no title.
    """
    results = rows + left_out
    passed = left_out <= FEW_UNTITLED.value * results
    text = f"{left_out:,} of {results:,} results were left out, as they have no title"
    if not passed:
        text += ": the items file has none for their items. Complete it"
    numbers: Numbers = {"rows": results, "untitled": left_out}
    headline = "" if passed else f"{left_out:,} of {results:,} results have no title"
    return Finding("rows_titled", watch_unless(passed), text, headline, numbers)
