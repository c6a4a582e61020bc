"""Lines of a batch that a filter treats alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from batchrec_dagster.local_personalize.filters.columns import Given, Mask, Rows
from batchrec_dagster.local_personalize.filters.syntax import Expression, Placeholder

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Case:
    """What placeholders and CurrentItem stand for, and which expressions count (one flag each)."""

    given: Given
    counts: tuple[bool, ...]


def coded(keys: Sequence[K]) -> tuple[Rows, list[K]]:
    """The distinct keys, and which of them each line has."""
    distinct: dict[K, int] = {}
    codes = [distinct.setdefault(key, len(distinct)) for key in keys]
    return np.array(codes, dtype=np.int64), list(distinct)


def same(codes: Rows) -> Iterator[tuple[int, Rows]]:
    """Each code, and the positions at which it stands, ascending."""
    order = np.argsort(codes, kind="stable")
    for lines in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(lines):
            yield int(codes[lines[0]]), lines


def cases(
    expressions: Sequence[Expression],
    codes: Rows,
    given: Sequence[Given],
    holds: Callable[[Expression, Given, Rows], Mask],
) -> tuple[Rows, list[Case]]:
    """The distinct cases, and which of them each line is.

    Line i has the values `given[codes[i]]`; `holds` says for which of some lines the IF condition
    of an expression holds.
    """
    conditional = [number for number, e in enumerate(expressions) if e.users]
    if not conditional:
        return codes, [Case(values, (True,) * len(expressions)) for values in given]
    flags = np.ones((len(codes), len(expressions)), dtype=np.int64)
    for number in conditional:
        expression = expressions[number]
        if not any(isinstance(o, Placeholder) for c in expression.users for o in c.operands):
            flags[:, number] = holds(expression, {}, np.arange(len(codes)))
            continue
        for code, lines in same(codes):
            flags[lines, number] = holds(expression, given[code], lines)
    distinct, of_line = np.unique(np.column_stack([codes, flags]), axis=0, return_inverse=True)
    found = [Case(given[code], tuple(map(bool, counts))) for code, *counts in distinct.tolist()]
    return of_line.reshape(-1), found
