"""Groups of input lines to which a filter applies in the same way.

Conditions that do not depend on the user are so evaluated once for each group, not for each line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from batchrec_dagster.personalize.filters import Expression

from .condition_table import Mask, RowIndexes

EvaluateIf = Callable[[Expression], Mask]
"""Returns which of all lines meet the IF condition of an expression."""

LineGroup = tuple[bool, ...]
"""Which expressions of the filter apply to the lines of a group: a flag for each."""


def group_positions(codes: RowIndexes) -> Iterator[tuple[int, RowIndexes]]:
    """Yield each distinct code with the ascending positions that have it."""
    order = np.argsort(codes, kind="stable")
    is_new_code = np.diff(codes[order]) != 0
    starts = np.flatnonzero(is_new_code) + 1
    for positions in np.split(order, starts):
        if len(positions):
            yield int(codes[positions[0]]), positions


def group_lines(
    expressions: Sequence[Expression], lines: int, evaluate_if: EvaluateIf
) -> tuple[RowIndexes, list[LineGroup]]:
    """Return each line's index in the groups, and the groups.

    lines: how many lines there are.
    """
    # Lines differ only in whether their users meet the IF conditions.
    applies = np.ones((lines, len(expressions)), dtype=np.int64)
    for number, expression in enumerate(expressions):
        if expression.users:
            applies[:, number] = evaluate_if(expression)
    distinct, group_of_line = np.unique(applies, axis=0, return_inverse=True)
    groups = [tuple(map(bool, flags)) for flags in distinct.tolist()]
    return group_of_line.reshape(-1), groups
