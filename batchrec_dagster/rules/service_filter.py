"""The filter in Personalize, for items that come into lists without it: popular and pinned ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from batchrec_dagster.personalize.filter_grammar import FieldRef, Literal, list_operands, parse
from batchrec_dagster.rules.catalogue import ItemCatalogue
from batchrec_dagster.rules.pairs import Mask


class ServiceFilter:
    """Which items of the catalogue the filter allows, as far as that is known.

    What an expression on interactions, or one with IF, says of an item depends on the user, and one
    that compares with CurrentItem on the item whose list it is. That is not known here.

    expression: the filter.
    values: those of its placeholders, by their names.
    """

    def __init__(
        self, expression: str, values: Mapping[str, Sequence[Literal]], catalogue: ItemCatalogue
    ) -> None:
        nothing = np.zeros(catalogue.other + 1, dtype=bool)
        included, surely_included, excluded, surely_excluded = (nothing.copy() for _ in range(4))
        expressions = parse(expression)
        for part in expressions:
            compares_fields = any(
                isinstance(operand, FieldRef) for operand in list_operands(part.where)
            )
            is_known = not (part.on_interactions or part.users or compares_fields)
            matches = catalogue.match(part.where, values) if is_known else ~nothing
            if part.include:
                included |= matches
                surely_included |= matches & is_known
            else:
                excluded |= matches
                surely_excluded |= matches & is_known
        if not any(part.include for part in expressions):
            included, surely_included = ~nothing, ~nothing
        self.allows_for_all: Mask = surely_included & ~excluded
        """Whether each item is allowed for every user."""
        self.may_allow: Mask = included & ~surely_excluded
        """Whether each item is allowed for some users, as far as is known."""
