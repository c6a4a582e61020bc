"""What failed checks measured in the last run that stored the asset, in the same sentence.

A number alone does not say whether it is new: "7 of 4,000 rows cannot be read (last time 0)".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

# What a check says of the last run, by the numbers that it measured then. The quality gate and
# not_shrunk compare with the published edition themselves.
LAST_TIME: Mapping[str, str] = {
    "rows_readable": "{bad_rows:,}",
    "items_readable": "{bad_rows:,}",
    "users_readable": "{bad_rows:,}",
    "enough_interactions": "{interactions:,}",
    "few_event_types": "{event_types:,}",
    "every_user_answered": "{missing:,} missing",
    "every_item_answered": "{missing:,} missing",
    "every_segment_answered": "{missing:,} missing",
    "no_failed_users": "{failed:,}",
    "no_failed_items": "{failed:,}",
    "no_failed_segments": "{failed:,}",
    "no_duplicates": "{repeated:,}",
    "no_seen_items": "{seen:,}",
    "lists_full": "{full:,} of {users:,}",
    "lists_not_emptied": "{empty:,}",
    "items_known": "{known:,} of {items:,}",
    "items_have_lists": "{with_list:,} of {items:,}",
    "rows_titled": "{untitled:,}",
    "source_without_erased": "{rows:,}",
}
# Where the first statement of a finding ends.
_END_OF_STATEMENT = re.compile(r"; |\. |: |, because | \(|$")
# The keys of the last run's numbers in a check's metadata start with this.
LAST = "last_"


def add_last_numbers(
    results: Sequence[dg.AssetCheckResult], last_results: Iterable[dg.AssetCheckResult]
) -> list[dg.AssetCheckResult]:
    """The results, of which those that failed say what the last run measured.

    last_results: those of the last run that stored the asset.
    """
    last_by_name = {result.check_name: result for result in last_results}
    return [_add_last_numbers(result, last_by_name.get(result.check_name)) for result in results]


def _add_last_numbers(
    result: dg.AssetCheckResult, last: dg.AssetCheckResult | None
) -> dg.AssetCheckResult:
    template = LAST_TIME.get(result.check_name or "")
    # A result that is repeated has the numbers of the run that measured them.
    is_compared = any(name.startswith(LAST) for name in result.metadata or {})
    if result.passed or template is None or last is None or is_compared:
        return result
    numbers: dict[str, Any] = {name: value.value for name, value in (last.metadata or {}).items()}
    try:
        # A check that could not measure anything has no number to compare with.
        template.format(**{name: value.value for name, value in (result.metadata or {}).items()})
        text = template.format(**numbers)
    except (KeyError, ValueError):
        return result
    last_numbers = {
        f"{LAST}{name}": value for name, value in numbers.items() if not name.startswith(LAST)
    }
    return dg.AssetCheckResult(
        check_name=result.check_name,
        asset_key=result.asset_key,
        passed=result.passed,
        severity=result.severity,
        description=insert_last_time(result.description or "", text),
        metadata={**(result.metadata or {}), **last_numbers},
    )


def insert_last_time(finding: str, last_time: str) -> str:
    """The finding with what the last run measured behind its first statement."""
    # There always is an end: if nothing else, that of the text.
    separator = next(_END_OF_STATEMENT.finditer(finding))
    start, end = separator.span()
    if separator[0] == " (":
        return f"{finding[:end]}last time {last_time}; {finding[end:]}"
    return f"{finding[:start]} (last time {last_time}){finding[start:]}"
