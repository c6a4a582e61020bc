"""The rules of a pipeline, prepared for the users and items of a run, and applied to lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from batchrec_dagster.config.rules import ExcludeSeen, ListRules
from batchrec_dagster.rules import max_per, pin
from batchrec_dagster.rules.block import BlockedItemsFilter
from batchrec_dagster.rules.candidates import Candidates
from batchrec_dagster.rules.context import InteractionSelection, RuleContext
from batchrec_dagster.rules.exclude_seen import SeenItemsFilter
from batchrec_dagster.rules.max_per import CategoryLimits
from batchrec_dagster.rules.only import MatchingItemsFilter
from batchrec_dagster.rules.pairs import IdNumbers, Mask, Masks, Matrix, Numbers
from batchrec_dagster.rules.pin import NO_ITEM, PinnedItems, PinnedRanks
from batchrec_dagster.rules.price import PriceFilter
from batchrec_dagster.rules.rule import ItemFilter, RuleCounts
from batchrec_dagster.rules.selection import EMPTY, FIRST_POPULAR, ListSelection

# Why a row is on a list, in the column `reason`; null for the model's own.
POPULAR, PINNED = "popular", "pinned"
# Of popular items that the rules allow for anybody, this many can fill lists.
MOST_POPULAR = 1_000
# The counters of max_per for the lists of one part take at most this many bytes.
MAX_COUNTER_BYTES = 64_000_000
# The numbers of results that a job is asked for. With few of them, a night's new stock rarely
# changes the request, so that the job of an earlier run with the same data is found again.
RESULT_STEPS = (*range(25, 100, 25), *range(100, 200, 50), *range(200, 1001, 100))


class PreparedRules:
    """The rules, for the users and items of a run.

    rules: as declared.
    exclude_seen: what counts as seen; None if nothing is left out.
    context: what is known of users and items.
    filter_history: how many of a user's latest interactions the filter in Personalize looks at; 0
        if it does not leave out what is seen.
    """

    def __init__(
        self,
        rules: ListRules,
        exclude_seen: ExcludeSeen | None,
        context: RuleContext,
        filter_history: int = 0,
    ) -> None:
        self._num_results = context.num_results
        self._catalogue = context.catalogue
        seen, price = _prepare_history_filters(rules, exclude_seen, context, filter_history)
        # The numbers of many ids take as much memory as reading, which is over now.
        self._user_numbers = IdNumbers(context.user_ids)
        of_items: list[ItemFilter] = []
        if rules.block is not None:
            of_items.append(BlockedItemsFilter(context))
        if rules.only is not None:
            of_items.append(MatchingItemsFilter(rules.only, context))
        self._seen = seen
        # Filters come before what counts items, so that an item that may not stay takes no place
        # of a category.
        self._filters: list[ItemFilter] = [
            *([seen] if seen is not None else []),
            *of_items,
            *([price] if price is not None else []),
        ]
        self._limits = CategoryLimits(rules.max_per, context) if rules.max_per else None
        filters_of_pins = [item_filter for item_filter in self._filters if item_filter is not price]
        self.pinned = PinnedItems(rules.pin, context, filters_of_pins)
        self._popular = self._find_popular(context, of_items)
        self._has_pins = bool(rules.pin)
        self.counts: dict[str, RuleCounts] = {}
        """What each rule did so far, in the order of application."""
        self.filled = FilledLists()
        """How the lists were filled so far."""
        self.start()

    def start(self) -> None:
        """Count from the start, for a table that is made again."""
        names = [item_filter.name for item_filter in self._filters]
        names += [max_per.NAME] if self._limits else []
        names += [pin.NAME] if self._has_pins else []
        self.counts = {name: RuleCounts(name) for name in names}
        self.filled = FilledLists()

    def choose_num_results(self, most: int, most_for_others: int) -> int:
        """How many results Personalize is asked for, so that the rules leave enough of them.

        most: the largest number allowed.
        most_for_others: the largest number for what other rules than exclude_seen leave out. What
            users had is certain to be left out, while of other rules it is only likely how much.
        """
        others = [rule for rule in (*self._filters, self._limits, self.pinned) if rule is not None]
        seen = self._seen
        more_for_seen = 0 if seen is None else seen.count_more_results(self._num_results)
        more = sum(
            rule.count_more_results(self._num_results) for rule in others if rule is not seen
        )
        needed = self._num_results + more
        if more:
            needed = next((step for step in RESULT_STEPS if step >= needed), needed)
        needed = min(needed, max(self._num_results, most_for_others))
        return min(most, needed + more_for_seen)

    def apply(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The lists of the users of these lines.

        The columns are user_id, rank, item_id, score and reason. A reason is POPULAR or PINNED, and
        null for the model's own.

        lines: the model's results, as of `Candidates`. A user whom it has no results for has a list
            too, of what else fills it.
        """
        bytes_per_list = self._limits.bytes_per_list if self._limits is not None else 1
        lists_at_once = max(1, MAX_COUNTER_BYTES // bytes_per_list)
        if lines.height <= lists_at_once:
            return self._apply_to_part(lines)
        return pl.concat(map(self._apply_to_part, lines.iter_slices(lists_at_once)))

    def count_seen_dropped(self) -> int:
        """How many results were left out because their user had the item."""
        return self.counts[self._seen.name].removed if self._seen is not None else 0

    @property
    def leaves_out_seen(self) -> bool:
        """Whether lists are without what users had."""
        return self._seen is not None

    def _apply_to_part(self, lines: pl.DataFrame) -> pl.DataFrame:
        lists = lines.height
        candidates = Candidates(lines, self._catalogue)
        user_numbers = self._user_numbers.find(candidates.users)
        allowed, emptied_by = self._filter(candidates, user_numbers)
        pinned = self._pin(candidates, allowed, user_numbers)
        limits = None if self._limits is None else self._limits.start(lists)
        selection = ListSelection(pinned, limits, self._catalogue.other)
        selection.fill(candidates.items, allowed)
        self.filled.short_of_model += len(selection.open_lists)
        self._fill_from_popular(selection, user_numbers)
        places = selection.rank_places()
        if limits is not None:
            self.counts[max_per.NAME].removed += selection.refused
        self._count(places, emptied_by)
        list_of_row, ranks = np.nonzero(places.T != EMPTY)
        chosen = places[ranks, list_of_row].astype(np.int64)
        if self._seen is not None:
            # A look at what is written, whatever filled the lists.
            items = self._find_items(candidates, list_of_row, chosen)
            self.filled.seen += int((~self._seen.allow(user_numbers[list_of_row], items)).sum())
        return self._write(candidates, list_of_row, ranks, chosen)

    def _filter(self, candidates: Candidates, users: Numbers) -> tuple[Masks, Numbers]:
        """Which candidates all filters allow; and for each list the place, among the filters, of
        the one that left out its last candidate, or -1."""
        allowed = candidates.is_result.copy()
        emptied_by = np.full(len(users), -1)
        results, has_any = len(candidates), allowed.any(axis=0)
        for number, item_filter in enumerate(self._filters):
            for is_allowed, items in zip(allowed, candidates.items, strict=True):
                is_allowed &= item_filter.allow(users, items.astype(np.int64))
            had_any, has_any = has_any, allowed.any(axis=0)
            emptied_by[had_any & ~has_any] = number
            results_before, results = results, int(np.count_nonzero(allowed))
            self.counts[item_filter.name].removed += results_before - results
        return allowed, emptied_by

    def _pin(self, candidates: Candidates, allowed: Masks, users: Numbers) -> PinnedRanks:
        """The pinned items, which then are not allowed as candidates any more."""
        pinned, unmet = self.pinned.place(users, self._num_results, candidates.items, allowed)
        if pin.NAME in self.counts:
            self.counts[pin.NAME].unmet += int(unmet.sum())
        for items in pinned:
            lists = np.flatnonzero(items != NO_ITEM)
            if len(lists):
                allowed[:, lists] &= candidates.items[:, lists] != items[lists]
        return pinned

    def _fill_from_popular(self, selection: ListSelection, users: Numbers) -> None:
        """Fill short lists from popular items."""

        def allow(lists: Numbers, items: Numbers) -> Mask:
            mask = np.ones(len(lists), dtype=bool)
            for item_filter in self._filters:
                mask &= item_filter.allow(users[lists], items)
            return mask

        selection.fill_from_popular(self._popular, allow)

    def _count(self, places: Matrix, emptied_by: Numbers) -> None:
        is_missing = places >= FIRST_POPULAR
        is_popular = is_missing & (places != EMPTY)
        is_pinned = places < 0
        sizes = (places != EMPTY).sum(axis=0)
        filled = self.filled
        filled.lists += places.shape[1]
        filled.popular_rows += int(is_popular.sum())
        filled.empty += int((sizes == 0).sum())
        if pin.NAME in self.counts:
            self.counts[pin.NAME].added += int(is_pinned.sum())
        numbers = emptied_by[(sizes == 0) & (emptied_by >= 0)]
        for number, lists in enumerate(np.bincount(numbers, minlength=len(self._filters))):
            self.counts[self._filters[number].name].emptied += int(lists)

    def _find_items(self, candidates: Candidates, lists: Numbers, chosen: Numbers) -> Numbers:
        """The number of the item of each row."""
        is_model = (chosen >= 0) & (chosen < FIRST_POPULAR)
        items = np.where(chosen < 0, -1 - chosen, 0)
        items[is_model] = candidates.items[chosen[is_model], lists[is_model]]
        is_popular = chosen >= FIRST_POPULAR
        items[is_popular] = self._popular[chosen[is_popular] - FIRST_POPULAR]
        return items

    def _write(
        self, candidates: Candidates, lists: Numbers, ranks: Numbers, chosen: Numbers
    ) -> pl.DataFrame:
        """The rows of the lists.

        lists, ranks, chosen: the list, the rank from 0 and the place of the candidate of each row.
        """
        is_pinned, is_popular = chosen < 0, chosen >= FIRST_POPULAR
        pinned_items, position = np.unique(-1 - chosen[is_pinned], return_inverse=True)
        others = self._catalogue.ids.gather(np.append(self._popular, pinned_items))
        # Negative places count from the end of the popular and then the pinned items.
        places = chosen.copy()
        places[is_popular] += -FIRST_POPULAR - len(others)
        places[is_pinned] = position - len(pinned_items)
        reasons = np.where(is_pinned, 2, np.where(is_popular, 1, 0))
        return pl.DataFrame(
            {
                "user_id": candidates.users.gather(lists),
                "rank": pl.Series(ranks + 1, dtype=pl.Int32),
                "item_id": candidates.gather_ids(lists, places, others),
                "score": candidates.gather_scores(lists, places),
                "reason": pl.Series([None, POPULAR, PINNED], dtype=pl.String).gather(reasons),
            }
        )

    def _find_popular(self, context: RuleContext, filters: Sequence[ItemFilter]) -> Numbers:
        """The numbers of the first popular items that these filters, of items alone, allow."""
        if context.popular is None:
            return np.zeros(0, dtype=np.int64)
        items = self._catalogue.find_numbers(context.popular)
        for item_filter in filters:
            items = items[item_filter.allow(np.zeros(len(items), dtype=np.int64), items)]
        return items[:MOST_POPULAR]


def _prepare_history_filters(
    rules: ListRules, exclude_seen: ExcludeSeen | None, context: RuleContext, filter_history: int
) -> tuple[SeenItemsFilter | None, PriceFilter | None]:
    """The filters that know what each user had: exclude_seen and price.

    All arguments are as of `PreparedRules`.
    """
    selections = []
    if rules.price is not None:
        selections.append(InteractionSelection(rules.price.events))
    if exclude_seen is not None:
        selections.append(InteractionSelection(exclude_seen.events, exclude_seen.days))
    histories = context.read_pairs(selections)
    seen = price = None
    # price comes first, as it needs the pairs only for a moment.
    if rules.price is not None:
        price = PriceFilter(rules.price, context, next(histories))
    if exclude_seen is not None:
        seen = SeenItemsFilter(exclude_seen, context, next(histories), filter_history)
    return seen, price


@dataclass
class FilledLists:
    """How the lists of a run were filled."""

    lists: int = 0
    """How many lists there are, with those of users for whom nothing is left."""
    short_of_model: int = 0
    """For how many lists the rules left fewer of the model's results than a list has items."""
    popular_rows: int = 0
    """How many popular items fill lists."""
    empty: int = 0
    """How many lists are empty."""
    seen: int = 0
    """How many rows have an item that exclude_seen leaves out. There should be none."""
