"""Checks of the lists of similar items, which items have and not users."""

from __future__ import annotations

import polars as pl

from batchrec_dagster.config.recommendations import MAX_FAILED_SHARE
from batchrec_dagster.steps.checks import MAX_IDS_NAMED, check_every_answered, list_ids
from batchrec_dagster.storage.edition import Finding

# With fewer people, lists say little: aws-sims leaves out pairs of items that fewer people had.
ENOUGH_PEOPLE = 3


def check_every_item_answered(items: pl.Series, answered: pl.Series, *, rows: int) -> Finding:
    """Whether every requested item has exactly one result, and some item a list.

    items: the ids of the requested items.
    answered: the id of the item of each result.
    rows: how many rows all lists have.
    """
    check = check_every_answered("item", items, answered)
    if rows or not check.passed:
        return check
    return Finding(
        check.name,
        passed=False,
        text=f"{check.text}; all lists are empty: similar_items.rules leave out"
        " every item, or too few people had two items",
        numbers=check.numbers,
    )


def check_no_failed_items(failed: int, lines: int, first: tuple[str, str] | None) -> Finding:
    """Whether few enough lines of a job's output have an error, and not all of them.

    lines: how many lines there are, one for each item.
    first: the id and the error of the first failed item.
    """
    passed = not failed or (failed < lines and failed / lines <= MAX_FAILED_SHARE)
    finding = f"{failed:,} of {lines:,} items failed"
    if first is not None:
        fate = "; they have no list in this edition" if passed else ""
        finding += (
            f" (at most {100 * MAX_FAILED_SHARE:g} % may){fate}; the first, item {first[0]!r}:"
            f" {first[1]}"
        )
    return Finding(
        "no_failed_items",
        passed,
        finding,
        {"lines": lines, "failed": failed},
        makes_output_unusable=True,
    )


def check_items_have_lists(items: int, with_list: int, full: int, num_results: int) -> Finding:
    """Whether most items have a list; a failure only warns.

    items: how many were requested.
    with_list: how many have a list, if only of one item.
    full: how many have all items of a list.
    num_results: how many these are.
    """
    finding = f"{with_list:,} of {items:,} items have a list, and {full:,} all {num_results} items"
    passed = 2 * with_list >= items
    if not passed:
        finding += (
            ". Of the others, too few people had something together with them, or the rules left"
            " out all: loosen these, or set more similar_items.within_days or more events"
        )
    numbers: dict[str, int | float] = {"items": items, "with_list": with_list, "full": full}
    return Finding("items_have_lists", passed, finding, numbers, severity="warn")


def check_requested_items_known(items: int, few: int, unknown: pl.Series) -> Finding:
    """Whether all requested items are known; a failure only warns.

    items: how many were requested.
    few: how many of them too few people had for a good list. They count, and fail nothing.
    unknown: those that are neither in the interactions nor in the items file.
    """
    finding = (
        f"{few:,} of {items:,} items were had by fewer than {ENOUGH_PEOPLE} people, so their lists"
        " say little"
    )
    if len(unknown):
        finding += (
            f"; {len(unknown):,} are neither in the interactions nor in the items file:"
            f" {list_ids(unknown.head(MAX_IDS_NAMED), len(unknown))}. Check similar_items.items"
        )
    numbers: dict[str, int | float] = {"items": items, "few": few, "unknown": len(unknown)}
    return Finding("requested_items_known", not len(unknown), finding, numbers, severity="warn")
