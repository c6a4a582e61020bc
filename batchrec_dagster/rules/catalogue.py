"""The items that rules decide on, numbered, with what is known of each."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filter_grammar import Condition
from batchrec_dagster.personalize.schemas import ITEM_ID, VALUE_SEPARATOR
from batchrec_dagster.rules.pairs import IdNumbers, Mask, Numbers

Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


class ItemCatalogue:
    """The items, numbered from 0.

    The number after the last stands for any other item, of which nothing is known.

    ids: their distinct ids.
    attributes: ITEM_ID and further columns, in one row an item; items may be missing.
    weights: how often each item is interacted with, in the order of `ids`.
    """

    def __init__(self, ids: pl.Series, attributes: pl.DataFrame, weights: Floats) -> None:
        self.ids = ids
        self._numbers = IdNumbers(ids)
        has_attributes = ids.is_in(attributes[ITEM_ID].implode()).to_numpy()
        self.exists = np.append(has_attributes | (weights > 0), False)
        """Whether each item has attributes or interactions, rather than is only named by a rule."""
        rows = pl.DataFrame({ITEM_ID: [*ids, None]}, schema={ITEM_ID: pl.String})
        self._attributes = rows.join(attributes, on=ITEM_ID, how="left", maintain_order="left")
        self._weights = np.append(weights, 0.0)

    @property
    def other(self) -> int:
        """The number of an item that is not in the catalogue."""
        return len(self.ids)

    def find_numbers(self, item_ids: pl.Series) -> Numbers:
        """The number of each item."""
        return self._numbers.find(item_ids)

    def match(self, condition: Condition) -> Mask:
        """Whether the item of each number, that of others included, meets the condition."""
        return find_matches(condition, self._attributes).to_numpy()

    def read_numbers(self, column: str) -> Floats:
        """The value in a column of numbers for each item; NaN where there is none."""
        values = self._attributes.get_column(self._name(column)).cast(pl.Float64)
        return values.fill_null(float("nan")).to_numpy()

    def read_values(self, column: str) -> pl.DataFrame:
        """The distinct values of a category, as rows of item (a number) and value."""
        values = pl.col(self._name(column)).cast(pl.String).str.split(VALUE_SEPARATOR)
        return (
            self._attributes.select(item=pl.int_range(pl.len()), value=values)
            .explode("value")
            .filter(pl.col("value") != "")
            .unique(maintain_order=True)
        )

    def measure_share(self, items: Mask) -> float:
        """Which share of the interactions, or of the catalogue if that is larger, these items have.

        Lists follow the interactions, with more items that are less known.
        """
        catalogue_items = items[: self.other]
        weights = self._weights[: self.other]
        share = float(weights[catalogue_items].sum() / max(1.0, weights.sum()))
        return max(share, float(catalogue_items.mean()) if len(catalogue_items) else 0.0)

    @property
    def weights(self) -> Floats:
        """How often each item is interacted with, 0 for others."""
        return self._weights

    def _name(self, column: str) -> str:
        return next(name for name in self._attributes.columns if name.upper() == column.upper())


def build_catalogue(
    counts: pl.DataFrame, attributes: pl.DataFrame | None, more_ids: Iterable[pl.Series]
) -> ItemCatalogue:
    """The catalogue of all items that are interacted with, have attributes, or are named elsewhere.

    counts: ITEM_ID and interactions, of each item.
    attributes: as of `ItemCatalogue`.
    more_ids: further ids, such as those that a rule names.
    """
    if attributes is None:
        attributes = pl.DataFrame(schema={ITEM_ID: pl.String})
    ids = pl.concat([counts[ITEM_ID], attributes[ITEM_ID], *more_ids]).drop_nulls()
    items = pl.DataFrame({ITEM_ID: ids.unique(maintain_order=True)}).join(
        counts, on=ITEM_ID, how="left", maintain_order="left"
    )
    weights = items["interactions"].fill_null(0).cast(pl.Float64).to_numpy()
    return ItemCatalogue(items[ITEM_ID], attributes.unique(ITEM_ID, keep="first"), weights)
