"""Groups of input lines to which a filter applies in the same way.

Conditions that do not depend on the user are so evaluated once for each group, not for each line.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from batchrec_dagster.personalize.filter_grammar import Expression, Placeholder, list_operands

from .columns import Bindings, Mask, RowIndexes

Key = TypeVar("Key", bound=Hashable)

EvaluateIf = Callable[[Expression, Bindings, RowIndexes], Mask]
"""Returns which of these lines meet the IF condition of an expression."""


@dataclass(frozen=True)
class LineGroup:
    """Input lines with the same bindings, to which the same expressions apply."""

    bindings: Bindings
    applies: tuple[bool, ...]
    """One flag for each expression of the filter."""


def encode_distinct(keys: Sequence[Key]) -> tuple[RowIndexes, list[Key]]:
    """Return each key's index in the distinct keys, and the distinct keys."""
    code_of_key: dict[Key, int] = {}
    codes = [code_of_key.setdefault(key, len(code_of_key)) for key in keys]
    return np.array(codes, dtype=np.int64), list(code_of_key)


def group_positions(codes: RowIndexes) -> Iterator[tuple[int, RowIndexes]]:
    """Yield each distinct code with the ascending positions that have it."""
    order = np.argsort(codes, kind="stable")
    is_new_code = np.diff(codes[order]) != 0
    starts = np.flatnonzero(is_new_code) + 1
    for positions in np.split(order, starts):
        if len(positions):
            yield int(codes[positions[0]]), positions


def group_lines(
    expressions: Sequence[Expression],
    codes: RowIndexes,
    bindings: Sequence[Bindings],
    evaluate_if: EvaluateIf,
) -> tuple[RowIndexes, list[LineGroup]]:
    """Return each line's index in the groups, and the groups.

    codes: for each line, the index of its bindings in `bindings`.
    bindings: the distinct bindings of all lines.
    """
    # Only an IF condition, which is about the user, can differ between lines with equal bindings.
    conditional = [number for number, expression in enumerate(expressions) if expression.users]
    if not conditional:
        return codes, [LineGroup(values, (True,) * len(expressions)) for values in bindings]
    applies = np.ones((len(codes), len(expressions)), dtype=np.int64)
    for number in conditional:
        expression = expressions[number]
        operands = list_operands(*expression.users)
        if not any(isinstance(operand, Placeholder) for operand in operands):
            applies[:, number] = evaluate_if(expression, {}, np.arange(len(codes)))
            continue
        for code, lines in group_positions(codes):
            applies[lines, number] = evaluate_if(expression, bindings[code], lines)
    distinct, group_of_line = np.unique(
        np.column_stack([codes, applies]), axis=0, return_inverse=True
    )
    groups = [
        LineGroup(bindings[code], tuple(map(bool, flags))) for code, *flags in distinct.tolist()
    ]
    return group_of_line.reshape(-1), groups
