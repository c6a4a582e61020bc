"""Filter expressions: the one that leaves out what a user already had.

Source: developer guide, "Filter expressions".
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    FILTER_HISTORY,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.formats.schemas import Schema

_SEEN = re.compile(
    r"\s*EXCLUDE\s+ItemID\s+WHERE\s+Interactions\s*\.\s*EVENT_TYPE"
    r'\s+IN\s*\(\s*"\*"\s*\)\s*',
    re.IGNORECASE,
)
SUPPORTED = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'


class FilterError(ValueError):
    """The expression cannot be used; the message says why."""


def check_expression(expression: str, interactions: Schema | None) -> None:
    """Raises FilterError for an expression that is not known, or that the schema cannot serve."""
    if not _SEEN.fullmatch(expression):
        raise FilterError(f"This local Personalize supports the filter {SUPPORTED} only.")
    if interactions is None or interactions.field(EVENT_TYPE) is None:
        raise FilterError(
            "The filter needs an EVENT_TYPE field in the group's Interactions schema."
        )


def excluded_items(rows: pl.DataFrame, user_ids: list[str], item_ids: list[str]) -> csr_matrix:
    """(len(user_ids), len(item_ids)): nonzero where the user's latest interactions have the item.

    `rows` has USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE; of each user and event type the latest
    FILTER_HISTORY count.
    """
    users = pl.DataFrame({USER_ID: user_ids, "user": np.arange(len(user_ids), dtype=np.int32)})
    items = pl.DataFrame({ITEM_ID: item_ids, "item": np.arange(len(item_ids), dtype=np.int32)})
    latest = (
        rows.drop_nulls(EVENT_TYPE)
        .join(users.select(USER_ID).unique(), on=USER_ID, how="semi")
        .sort(TIMESTAMP, descending=True, maintain_order=True)
        .group_by(USER_ID, EVENT_TYPE, maintain_order=True)
        .head(FILTER_HISTORY)
    )
    seen = latest.join(items, on=ITEM_ID).select(USER_ID, "item").unique()
    pairs = users.join(seen, on=USER_ID).select("user", "item")
    ones = np.ones(len(pairs), dtype=np.int8)
    where = (pairs["user"].to_numpy(), pairs["item"].to_numpy())
    return csr_matrix((ones, where), shape=(len(user_ids), len(item_ids)))
