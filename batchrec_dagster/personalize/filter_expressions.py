"""Batchrec's own filter expressions.

Source: Amazon Personalize developer guide, "Filter expressions".
"""

from __future__ import annotations

from collections.abc import Sequence

# "*" is every event type. Only the latest FILTER_HISTORY interactions of a user and event type
# count, see schemas.py.
EXCLUDE_SEEN = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'


def build_exclude_events(events: Sequence[str]) -> str:
    """The filter that leaves out items with an interaction of one of these types.

    events: types without a quote or a backslash in them.
    """
    names = ",".join(f'"{event}"' for event in events)
    return f"EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ({names})"
