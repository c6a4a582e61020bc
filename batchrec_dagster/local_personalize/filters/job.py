"""A filter in a batch job: masks over items for inference, over users for segments.

Conditions that do not depend on the user are evaluated once over all items, for each distinct set
of `filterValues`. A user's own items are looked up for a chunk of users at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from batchrec_dagster.personalize.filter_expressions import list_placeholder_uses, parse_values
from batchrec_dagster.personalize.filter_grammar import (
    USER_TARGET,
    And,
    Expression,
    Literal,
    Placeholder,
    Variable,
    list_operands,
    parse,
)
from batchrec_dagster.personalize.schemas import FILTER_HISTORY, INTERACTIONS, ITEMS, USER_ID, USERS

from ..learning.interactions import Float32, Int32
from ..learning.serving import Exclude
from .columns import Bindings, Column, ColumnTable, Mask, RowIndexes, evaluate, make_column
from .tables import (
    CurrentItemFields,
    ReadColumns,
    UserItemPairs,
    align_items,
    index_event_types,
    load_datasets,
)

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class LineGroup:
    """Input lines with the same bindings, to which the same expressions apply."""

    bindings: Bindings
    applies: tuple[bool, ...]  # one flag for each expression


def encode_distinct(keys: Sequence[K]) -> tuple[RowIndexes, list[K]]:
    """Each line's index in the distinct keys, and the distinct keys."""
    distinct: dict[K, int] = {}
    codes = [distinct.setdefault(key, len(distinct)) for key in keys]
    return np.array(codes, dtype=np.int64), list(distinct)


def group_positions(codes: RowIndexes) -> Iterator[tuple[int, RowIndexes]]:
    """Each code with its ascending positions."""
    order = np.argsort(codes, kind="stable")
    for lines in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        if len(lines):
            yield int(codes[lines[0]]), lines


def group_lines(
    expressions: Sequence[Expression],
    codes: RowIndexes,
    bindings: Sequence[Bindings],
    evaluate_if: Callable[[Expression, Bindings, RowIndexes], Mask],
) -> tuple[RowIndexes, list[LineGroup]]:
    """Each line's index in the distinct groups, and the groups.

    Line i has the bindings `bindings[codes[i]]`; `evaluate_if` gives the lines that meet an
    expression's IF condition.
    """
    conditional = [number for number, e in enumerate(expressions) if e.users]
    if not conditional:
        return codes, [LineGroup(values, (True,) * len(expressions)) for values in bindings]
    flags = np.ones((len(codes), len(expressions)), dtype=np.int64)
    for number in conditional:
        expression = expressions[number]
        if not any(isinstance(o, Placeholder) for o in list_operands(*expression.users)):
            flags[:, number] = evaluate_if(expression, {}, np.arange(len(codes)))
            continue
        for code, lines in group_positions(codes):
            flags[lines, number] = evaluate_if(expression, bindings[code], lines)
    distinct, group_of_line = np.unique(
        np.column_stack([codes, flags]), axis=0, return_inverse=True
    )
    groups = [
        LineGroup(bindings[code], tuple(map(bool, applies))) for code, *applies in distinct.tolist()
    ]
    return group_of_line.reshape(-1), groups


def combine_masks(masks: Iterable[Mask]) -> Mask | None:
    """What is in any of the masks; None without one."""
    found = list(masks)
    return reduce(np.logical_or, found) if found else None


CACHED_BYTES = 32 << 20

_NO_PAIRS: tuple[RowIndexes, Int32, RowIndexes] = (
    np.zeros(0, np.int64),
    np.zeros(0, np.int32),
    np.zeros(0, np.int64),
)


class ExclusionMask:
    """The expressions of a filter on items (ItemID), over a model's items."""

    def __init__(
        self,
        expressions: Sequence[Expression],
        n_items: int,
        items: Mapping[str, Column],
        user_items: UserItemPairs | None,
    ) -> None:
        """`items` are the columns of Items in the model's order."""
        self._expressions = expressions
        self._n_items = n_items
        self._items = items
        self._user_items = user_items
        self._variables = [
            [o for o in list_operands(e.where) if isinstance(o, Variable)] for e in expressions
        ]
        cached_masks = 16 + CACHED_BYTES // max(1, n_items)
        self._item_mask = lru_cache(maxsize=cached_masks)(self._evaluate_items)

    def make_mask(
        self, groups: Sequence[LineGroup], group_of_line: RowIndexes, users: RowIndexes | None
    ) -> Exclude:
        """The mask for lines of these groups, of users with these indexes in `user_items`."""

        def exclude(chunk: slice, scores: Float32) -> None:
            for group, lines in group_positions(group_of_line[chunk]):
                pairs = _NO_PAIRS
                if self._user_items is not None and users is not None:
                    pairs = self._user_items.find_pairs(users[chunk][lines])
                first, last = int(lines[0]), int(lines[-1]) + 1
                if last - first == len(lines):
                    self._apply(groups[group], scores[first:last], *pairs)
                else:
                    block = scores[lines]
                    self._apply(groups[group], block, *pairs)
                    scores[lines] = block

        return exclude

    def _apply(
        self, group: LineGroup, scores: Float32, lines: RowIndexes, items: Int32, rows: RowIndexes
    ) -> None:
        """Exclude within one group's lines; pair i is of line `lines[i]` and item `items[i]`."""
        excluded = self._over_items(group, include=False)
        included = self._over_items(group, include=True)
        excluded_pairs = self._over_pairs(group, rows, include=False)
        included_pairs = self._over_pairs(group, rows, include=True)
        if included is None and included_pairs is None:
            masked = excluded
        else:
            masked = np.ones(self._n_items, dtype=bool) if included is None else ~included
            if excluded is not None:
                masked = masked | excluded
        if masked is not None and masked.any():
            kept = included_pairs
            if kept is not None and excluded is not None:
                kept = kept & ~excluded[items]
            kept_scores = None if kept is None else scores[lines[kept], items[kept]]
            # Faster than boolean indexing, and finite scores keep their exact value.
            scores += np.where(masked, np.float32(-np.inf), np.float32(0))
            if kept is not None:
                scores[lines[kept], items[kept]] = kept_scores
        if excluded_pairs is not None:
            scores[lines[excluded_pairs], items[excluded_pairs]] = -np.inf

    def _over_items(self, group: LineGroup, *, include: bool) -> Mask | None:
        """The items that expressions on Items match; None when no such expression applies."""

        def mask(number: int) -> Mask:
            used = [o for o in self._variables[number] if o in group.bindings]
            return self._item_mask(number, tuple((o, group.bindings[o]) for o in used))

        return combine_masks(
            map(mask, self._numbers(group, include=include, on_interactions=False))
        )

    def _over_pairs(self, group: LineGroup, rows: RowIndexes, *, include: bool) -> Mask | None:
        """The pairs that expressions on Interactions match; None when none applies."""

        def mask(number: int) -> Mask:
            if self._user_items is None or not len(rows):
                return np.zeros(len(rows), dtype=bool)
            where = self._expressions[number].where
            return evaluate(where, self._user_items.columns, group.bindings, rows)

        return combine_masks(map(mask, self._numbers(group, include=include, on_interactions=True)))

    def _numbers(self, group: LineGroup, *, include: bool, on_interactions: bool) -> list[int]:
        kind = (include, on_interactions)
        return [
            number
            for number, e in enumerate(self._expressions)
            if group.applies[number] and (e.include, e.on_interactions) == kind
        ]

    def _evaluate_items(
        self, number: int, bindings: tuple[tuple[Variable, tuple[Literal, ...]], ...]
    ) -> Mask:
        return evaluate(self._expressions[number].where, self._items, dict(bindings))


CACHED_VALUES = 4096


class JobFilter:
    """Which items, or users, a filter excludes from the answer to each input line."""

    def __init__(
        self,
        expression: str,
        read: ReadColumns,
        item_ids: Sequence[str],
        latest: int = FILTER_HISTORY,
    ) -> None:
        """`expression` has passed CreateFilter; `item_ids` are the model's, in its order. Of a
        user's interactions of an event type, only the latest count.

        Raises JobFailedError when a dataset that it needs is missing, or has changed so that the
        filter no longer fits.
        """
        self._expressions = parse(expression)
        frames, schemas = load_datasets(self._expressions, read)
        self._uses = list_placeholder_uses(self._expressions, schemas)
        self._names = list(dict.fromkeys(use.placeholder.name for use in self._uses))
        self._parse_bindings = lru_cache(maxsize=CACHED_VALUES)(self._bindings_of)
        users, events = frames.get(USERS), frames.get(INTERACTIONS)
        self._users: ColumnTable | None = None
        if users is not None:
            columns = {name: make_column(cells) for name, cells in users.to_dict().items()}
            self._users = ColumnTable(users[USER_ID], columns)
        self._event_types: ColumnTable | None = None
        if self._expressions[0].target == USER_TARGET:
            self._event_types = index_event_types(events) if events is not None else None
            return
        items = frames.get(ITEMS)
        self._user_items = UserItemPairs(events, item_ids, latest) if events is not None else None
        self._current = CurrentItemFields(self._expressions, items) if items is not None else None
        self._mask = ExclusionMask(
            self._expressions,
            len(item_ids),
            align_items(items, item_ids) if items is not None else {},
            self._user_items,
        )

    def find_problem(self, values: Mapping[str, str]) -> str | None:
        """Why a line with these `filterValues` cannot be answered; None when it can."""
        for use in self._uses:
            problem = use.problem(values.get(use.placeholder.name))
            if problem is not None:
                return problem
        return None

    def make_mask_for_users(
        self, user_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """The mask for lines with these users and `filterValues`, for `UserModel.recommend`."""
        users = self._users.find_rows(user_ids) if self._users is not None else None
        codes, bindings = self._encode(values)
        group_of_line, groups = group_lines(
            self._expressions, codes, bindings, self._if_evaluator(users)
        )
        owners = self._user_items.find_users(user_ids) if self._user_items is not None else None
        return self._mask.make_mask(groups, group_of_line, owners)

    def make_mask_for_items(
        self, current_item_ids: Sequence[str], values: Sequence[Mapping[str, str]]
    ) -> Exclude:
        """The mask for lines that ask for similar items: no user, so no interactions and no IF."""
        codes, bindings = self._encode(values)
        if self._current is not None and self._current.fields:
            codes, distinct = encode_distinct(
                list(zip(current_item_ids, codes.tolist(), strict=True))
            )
            of_items = self._current.find_bindings([item for item, _ in distinct])
            bindings = [
                {**bindings[code], **of_item}
                for (_, code), of_item in zip(distinct, of_items, strict=True)
            ]
        group_of_line, groups = group_lines(
            self._expressions, codes, bindings, self._if_evaluator(None)
        )
        return self._mask.make_mask(groups, group_of_line, None)

    def make_user_mask(
        self, user_ids: Sequence[str] | npt.NDArray[np.object_], values: Mapping[str, str]
    ) -> Mask:
        """(len(user_ids),): which users may be in a segment, given a line's `filterValues`."""
        _, (bindings,) = self._encode([values])

        def mask(expression: Expression) -> Mask:
            table = self._event_types if expression.on_interactions else self._users
            assert table is not None  # `load_datasets` reads every dataset of the expressions
            return table.evaluate(expression.where, bindings, table.find_rows(user_ids))

        included = combine_masks(mask(each) for each in self._expressions if each.include)
        excluded = combine_masks(mask(each) for each in self._expressions if not each.include)
        allowed = np.ones(len(user_ids), dtype=bool) if included is None else included
        return allowed if excluded is None else allowed & ~excluded

    def _if_evaluator(
        self, users: RowIndexes | None
    ) -> Callable[[Expression, Bindings, RowIndexes], Mask]:
        def evaluate_if(expression: Expression, bindings: Bindings, lines: RowIndexes) -> Mask:
            if users is None or self._users is None:
                return np.zeros(len(lines), dtype=bool)
            return self._users.evaluate(And(expression.users), bindings, users[lines])

        return evaluate_if

    def _encode(self, values: Sequence[Mapping[str, str]]) -> tuple[RowIndexes, list[Bindings]]:
        """Each line's index in the distinct bindings, and the bindings."""
        if not self._names:
            return np.zeros(len(values), dtype=np.int64), [{}]
        codes, distinct = encode_distinct(
            [tuple(line.get(name) for name in self._names) for line in values]
        )
        return codes, [self._parse_bindings(texts) for texts in distinct]

    def _bindings_of(self, texts: tuple[str | None, ...]) -> Bindings:
        bindings: dict[Variable, tuple[Literal, ...]] = {}
        text_by_name = dict(zip(self._names, texts, strict=True))
        for use in self._uses:
            text = text_by_name[use.placeholder.name]
            if text is not None and use.problem(text) is None:
                bindings[use.placeholder] = parse_values(text) or ()
        return bindings
