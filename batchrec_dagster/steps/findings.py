"""Helpers for findings, which every step uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.errors import Refused

# The key in a finding's numbers that records a publication in spite of a failed check.
PUBLISHED_ANYWAY = "published_anyway"


def require_passed(checks: Sequence[Finding]) -> None:
    """Raise Refused if one of the checks blocks."""
    if any(check.blocks for check in checks):
        raise Refused(checks)


def is_share_allowed(count: int, total: int, max_share: float) -> bool:
    """Return whether the count is 0, or below the total and at most this share of the total."""
    # Dividing is safer than multiplying with the share: 0.29 * 100 is less than 29.
    return not count or (count < total and count / total <= max_share)


def format_day(seconds: int) -> str:
    """Return the UTC day of a time in epoch seconds, or only its year if it is out of range."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"the year {1970 + seconds // 31_556_952:,}"
