"""Filter expressions: the one that leaves out what a user already had.

Source: developer guide, "Filter expressions".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    FILTER_HISTORY,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.formats.schemas import INTERACTIONS, Schema
from batchrec_dagster.local_personalize.learning.interactions import Ids
from batchrec_dagster.local_personalize.learning.serving import Forbid, forbidding

_SEEN = re.compile(
    r"\s*EXCLUDE\s+ItemID\s+WHERE\s+Interactions\s*\.\s*EVENT_TYPE"
    r'\s+IN\s*\(\s*"\*"\s*\)\s*',
    re.IGNORECASE,
)
# Reads these columns of the group's data set of that type, as they are now.
Read = Callable[[str, Sequence[str]], pl.DataFrame]
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


class JobFilter:
    """A filter in a batch job: what it forbids each input line to be answered with."""

    def __init__(self, expression: str, read: Read, item_ids: list[str]) -> None:
        """`expression` has been checked; `item_ids` are the model's, in its order.

        Raises JobFailedError, from `read`, when a data set that it looks at is not there.
        """
        self._rows = read(INTERACTIONS, [USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE])
        self._item_ids = item_ids

    def problem(self, values: Mapping[str, str]) -> str | None:
        """Why a line with these `filterValues` cannot be answered; None when it can."""
        return None

    def forbid(self, user_ids: list[str], values: Sequence[Mapping[str, str]]) -> Forbid:
        """For lines of these users and their `filterValues`, as `Model.recommend` takes it."""
        return forbidding(excluded_items(self._rows, user_ids, self._item_ids))

    def forbid_for_items(
        self, current_item_ids: list[str], values: Sequence[Mapping[str, str]]
    ) -> Forbid:
        """For lines of these items and their `filterValues`, as `ItemModel.similar` takes it."""
        return forbidding(csr_matrix((len(current_item_ids), len(self._item_ids)), dtype=np.int8))

    def user_mask(
        self, user_ids: Sequence[str] | Ids, values: Mapping[str, str]
    ) -> npt.NDArray[np.bool_]:
        """Which of the users a segment may have, for a line with these `filterValues`."""
        return np.ones(len(user_ids), dtype=bool)


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
