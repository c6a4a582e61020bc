"""The rules of lists, as operations on a table of candidates.

A candidate is an item that a list may have. Its row has the number of the list, the number of the
item, and the item's index among the results of the model, best first. The rules take rows out of
the table. Then pins put rows at their ranks, and the first remaining candidates fill the other
ranks. Popular items fill lists that are still too short. In the row of a popular item, the column
`is_popular` is true, and the index is the item's index among the popular items.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.rules import ExcludeSeen, Pin, PriceRange, RuleSettings
from batchrec_dagster.editions.edition import FillCounts, RuleCounts
from batchrec_dagster.steps.data.numbered_ids import NumberedIds
from batchrec_dagster.steps.data.popular_items import POPULAR
from batchrec_dagster.steps.lists.histories import encode_pairs, read_histories
from batchrec_dagster.steps.lists.inputs import EXISTS, ListInputs
from batchrec_dagster.steps.lists.max_per import read_limits
from batchrec_dagster.steps.lists.ranks import Ranks, rank_rows

# The reason of a row that a pin put on a list. The reason of popular items is POPULAR. The results
# of the model have no reason (null).
PINNED = "pinned"
# The rules that leave out candidates, in the order of application.
SEEN, BLOCK, ONLY, TITLE, PRICE = FILTERS = ("exclude_seen", "block", "only", "title", "price")
MAX_PER, PIN = "max_per", "pin"
# The largest number of popular items that are offered to a short list, and the number that is
# offered first. Few lists need more than the first offer. Items that the rules leave out for
# everybody do not count.
MOST_POPULAR, FIRST_POPULAR = 1_000, 100
# The number of lists that the rules are applied to at once.
LISTS_AT_ONCE = 2_000

PINNED_ROWS = {"list": pl.UInt32, "item": pl.UInt32, "rank": pl.Int64}


@dataclass(frozen=True)
class Subjects:
    """The users of some lines, and the facts about each user that the rules need."""

    lists: pl.DataFrame
    """The columns list (the number of the user's list, from 0), user (the user's number) and
    user_id."""
    had: pl.Series
    """The pairs of a list and an item that the list leaves out, because the list's user had it.

    Each pair is a number that `encode_pairs` makes."""
    median_prices: pl.Series | None
    """The median price of the items that each user had; null if none of the items has a price.
    None without the rule `price`."""


class PreparedPin:
    """A pin, with the users and the items that it applies to."""

    def __init__(self, setting: Pin, inputs: ListInputs) -> None:
        self.setting = setting
        self.is_for = inputs.match_users(setting.users)
        """Whether the pin applies to each user, by the user's number."""
        if setting.only is not None:
            is_item = inputs.match_items(setting.only)
        else:
            is_item = inputs.find_items(pl.Series([setting.item], dtype=pl.String))
        self.is_item = is_item & inputs.catalogue[EXISTS]
        """Whether the pin may put each item on lists, by the item's number."""
        self.items = self.is_item.arg_true().cast(pl.UInt32)
        """The numbers of the items that the pin may put on lists."""


class Rules:
    """The rules of a list, prepared for its users and items, with counts of what the rules did.

    rules: the declared rules.
    exclude_seen: the settings that say which items count as seen; None if no seen items are left
        out.
    inputs: the facts about users and items.
    """

    def __init__(
        self, rules: RuleSettings, exclude_seen: ExcludeSeen | None, inputs: ListInputs
    ) -> None:
        self._rules = rules
        self._fills_lists_of_model = inputs.fills_lists_of_model
        selections: dict[str, ExcludeSeen | PriceRange] = {}
        if exclude_seen is not None:
            selections[SEEN] = exclude_seen
        if rules.price is not None:
            selections[PRICE] = rules.price
        self._histories = read_histories(
            inputs.interactions, inputs.subject_ids, inputs.item_ids, inputs.data_until, selections
        )
        # Numbering many ids takes as much memory as reading the histories, so the ids are numbered
        # only now, when reading is over.
        self._items, self._users = NumberedIds(inputs.item_ids), NumberedIds(inputs.subject_ids)
        self._item_ids = inputs.item_ids.extend_constant(None, 1)
        self._left_out_by = find_item_rule(rules, inputs)
        self._is_exempt = self._prices = None
        if exclude_seen is not None and exclude_seen.unless is not None:
            self._is_exempt = inputs.match_items(exclude_seen.unless)
        if rules.price is not None:
            self._prices = inputs.read_column(rules.price.of).cast(pl.Float64)
        limits = read_limits(rules.max_per, inputs) if rules.max_per else None
        self._ranks = Ranks(inputs.num_results, limits)
        pins = [pin for pin in rules.pin if not pin.is_over(inputs.today)]
        self.pins = [PreparedPin(pin, inputs) for pin in pins]
        self._popular = self._find_popular(inputs.popular_ids)
        applied = {
            SEEN: exclude_seen is not None,
            BLOCK: rules.block is not None,
            ONLY: rules.only is not None,
            TITLE: inputs.titled is not None,
            PRICE: rules.price is not None,
            MAX_PER: bool(rules.max_per),
            PIN: bool(rules.pin),
        }
        names = [name for name, is_applied in applied.items() if is_applied]
        self.counts = {name: RuleCounts(name) for name in names}
        """The counts of what each rule did so far, in the order of application."""
        self.filled = FillCounts()
        """The counts of how the lists were filled so far."""

    def count_seen_dropped(self) -> int:
        """Return the number of results that were left out because their user had the item."""
        return self.counts[SEEN].removed if SEEN in self.counts else 0

    def count_untitled(self) -> int:
        """Return the number of results that were left out because lists show titles.

        The item of such a result has no title.
        """
        return self.counts[TITLE].removed if TITLE in self.counts else 0

    def allows_any(self, pin: PreparedPin) -> bool:
        """Return whether the other rules allow at least one item of the pin for anybody."""
        return bool(self._left_out_by.gather(pin.items).is_null().any())

    def apply(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Apply the rules to these lines, and return the rows of the users' lists.

        The columns are subject, rank, member, score and reason. A reason is POPULAR or PINNED; it
        is null for a result of the model.

        lines: the columns subject (the user's id), members and scores. The last two hold lists,
            best first. There may be fewer scores than members, and each score may be null. A user
            without members gets a list of pinned and popular items. With a column reason, the
            members are popular items instead of results of the model.
        """
        parts = lines.iter_slices(LISTS_AT_ONCE) if lines.height else [lines]
        return pl.concat(map(self._apply_to_part, parts))

    def _apply_to_part(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Apply the rules to at most LISTS_AT_ONCE lines."""
        subjects = self._describe(lines.get_column("subject"))
        results = explode_members(lines.with_row_index("list"), "list")
        candidates = results.select(
            "list",
            item=self._find_items(results.get_column("member")),
            index=pl.int_range(pl.len(), dtype=pl.UInt32),
            is_popular=pl.lit(value=False),
        )
        left_out_by = self._find_rule(candidates, subjects)
        allowed = candidates.filter(left_out_by.is_null())
        pinned = self._pin(allowed, subjects)
        chosen, refused = self._ranks.choose(allowed, pinned, subjects.lists)
        if "reason" in lines.columns:
            chosen, _ = self._fill(chosen, pinned, subjects)
        elif self._fills_lists_of_model:
            before = chosen.height
            chosen, short = self._fill(chosen, pinned, subjects)
            self.filled.of_model += lines.height
            self.filled.short_of_model += short
            self.filled.popular_rows += chosen.height - before
        rows = rank_rows(chosen, pinned)
        if MAX_PER in self.counts:
            self.counts[MAX_PER].removed += refused
        self._count(rows, candidates.with_columns(left_out_by=left_out_by), subjects)
        return self._write(rows, results, subjects)

    def _describe(self, user_ids: pl.Series) -> Subjects:
        """Return the facts about these users that the rules need."""
        lists = pl.DataFrame(
            {
                "list": pl.int_range(len(user_ids), dtype=pl.UInt32, eager=True),
                "user": self._users.find(user_ids).fill_null(len(self._users.ids)),
                "user_id": user_ids,
            }
        )
        histories = {
            name: lists.select("list", item=items.gather(lists["user"]))
            for name, items in self._histories.items()
        }
        had = {name: rows.explode("item").drop_nulls() for name, rows in histories.items()}
        medians = None
        if self._prices is not None:
            prices = had[PRICE].with_columns(price=self._prices.gather(had[PRICE]["item"]))
            of_lists = prices.group_by("list").agg(pl.median("price"))
            medians = lists.join(of_lists, on="list", how="left", maintain_order="left")["price"]
        seen = had.get(SEEN, pl.DataFrame(schema={"list": pl.UInt32, "item": pl.UInt32}))
        if self._is_exempt is not None:
            seen = seen.filter(~self._is_exempt.gather(seen["item"]))
        return Subjects(lists, encode_pairs(seen, "item"), medians)

    def _find_rule(
        self, rows: pl.DataFrame, subjects: Subjects, *, obeys_price: bool = True
    ) -> pl.Series:
        """Find the first rule that leaves out each row.

        The result is the rule's index in FILTERS; null if no rule leaves out the row.

        rows: the columns list and item.
        obeys_price: whether the rule `price` applies.
        """
        lists, items = rows["list"], rows["item"]
        left_out_by = self._left_out_by.gather(items)
        if self._rules.price is not None and self._prices is not None and obeys_price:
            assert subjects.median_prices is not None
            low, high = self._rules.price.within
            prices, medians = self._prices.gather(items), subjects.median_prices.gather(lists)
            is_near = (prices >= low * medians) & (prices <= high * medians)
            is_out = medians.is_not_null() & ~is_near.fill_null(value=False)
            by_price = _repeat_number(PRICE, len(rows))
            left_out_by = by_price.zip_with(left_out_by.is_null() & is_out, left_out_by)
        if len(subjects.had):
            is_seen = encode_pairs(rows, "item").is_in(subjects.had.implode())
            left_out_by = _repeat_number(SEEN, len(rows)).zip_with(is_seen, left_out_by)
        return left_out_by

    def _pin(self, allowed: pl.DataFrame, subjects: Subjects) -> pl.DataFrame:
        """Return the pinned items of all lists: the columns list, item and rank.

        If several pins have the same rank, the first pin that can put an item on the list is used.

        allowed: the candidates that the rules allow.
        """
        pinned = pl.DataFrame(schema=PINNED_ROWS)
        unmet = [pl.Series(dtype=pl.UInt32)]
        for pin in self.pins:
            rank = pin.setting.rank
            lists = subjects.lists.filter(pin.is_for.gather(subjects.lists["user"])).select("list")
            lists = lists.join(pinned.filter(rank=rank), on="list", how="anti")
            if pin.setting.only is not None:
                matching = allowed.filter(pin.is_item.gather(allowed["item"]))
                matching = matching.join(lists, on="list", how="semi")
                matching = matching.join(pinned, on=["list", "item"], how="anti")
                placed = matching.unique("list", keep="first", maintain_order=True)
                unmet.append(lists.join(placed, on="list", how="anti")["list"])
            else:
                placed = lists.join(pl.DataFrame({"item": pin.items}), how="cross")
                placed = placed.join(pinned, on=["list", "item"], how="anti")
                left_out_by = self._find_rule(placed, subjects, obeys_price=False)
                placed = placed.filter(left_out_by.is_null())
            at_rank = placed.select("list", "item", rank=pl.lit(rank, dtype=pl.Int64))
            pinned = pl.concat([pinned, at_rank])
        if PIN in self.counts:
            self.counts[PIN].added += pinned.height
            self.counts[PIN].unmet += pl.concat(unmet).n_unique()
        return pinned

    def _fill(
        self, chosen: pl.DataFrame, pinned: pl.DataFrame, subjects: Subjects
    ) -> tuple[pl.DataFrame, int]:
        """Fill short lists with popular items.

        Return the chosen candidates with the added popular items, and the number of lists that were
        short before.
        """
        popular = self._popular.to_frame("item").with_columns(
            index=pl.int_range(pl.len(), dtype=pl.UInt32), is_popular=pl.lit(value=True)
        )
        order = ["list", "is_popular", "index"]
        were_short = short = self._ranks.find_short(chosen, pinned, subjects.lists)
        for part in (popular.head(FIRST_POPULAR), popular.slice(FIRST_POPULAR)):
            if not (short.height and part.height):
                break
            offered = short.join(part, how="cross")
            offered = offered.filter(self._find_rule(offered, subjects).is_null())
            offered = offered.join(chosen, on=["list", "item"], how="anti")
            on_list = chosen.join(short, on="list", how="semi")
            rows = pl.concat([on_list, offered]).sort(order)
            filled, _ = self._ranks.choose(rows, pinned, subjects.lists)
            full_lists = chosen.join(short, on="list", how="anti")
            chosen = pl.concat([full_lists, filled]).sort(order)
            short = self._ranks.find_short(chosen, pinned, subjects.lists)
        return chosen, were_short.height

    def _count(self, rows: pl.DataFrame, candidates: pl.DataFrame, subjects: Subjects) -> None:
        """Count the results that the rules left out, and the lists that are empty.

        rows: the rows of the finished lists.
        candidates: all candidates, with the column left_out_by: the index in FILTERS of the rule
            that left out the candidate.
        """
        for number, count in candidates["left_out_by"].value_counts().drop_nulls().iter_rows():
            self.counts[FILTERS[number]].removed += count
        # The rules apply in order, so a list lost its last result to the last rule that left out
        # any of its results.
        without_rows = candidates.join(rows, on="list", how="anti")
        last_rules = without_rows.group_by("list").agg(pl.col("left_out_by").max())
        for number, count in last_rules["left_out_by"].value_counts().drop_nulls().iter_rows():
            self.counts[FILTERS[number]].emptied += count
        self.filled.lists += subjects.lists.height
        self.filled.empty += subjects.lists.height - rows["list"].n_unique()
        # Results of the model, pinned items and popular items all count here.
        self.filled.seen += int(encode_pairs(rows, "item").is_in(subjects.had.implode()).sum())

    def _write(self, rows: pl.DataFrame, results: pl.DataFrame, subjects: Subjects) -> pl.DataFrame:
        """Return the rows with ids, scores and reasons in place of numbers.

        results: the results of the model. In rows of its results, `index` is a position in this
            table.
        """
        is_pinned = pl.col("index").is_null()
        reason = pl.when(is_pinned).then(pl.lit(PINNED)).when("is_popular").then(pl.lit(POPULAR))
        index = rows.select(pl.when(~pl.col("is_popular")).then("index")).to_series()
        item_ids = results["member"].gather(index)
        item_ids = item_ids.zip_with(index.is_not_null(), self._item_ids.gather(rows["item"]))
        return rows.select(
            subjects.lists["user_id"].gather(rows["list"]).alias("subject"),
            "rank",
            item_ids.alias("member"),
            results["score"].gather(index).alias("score"),
            reason.alias("reason"),
        )

    def _find_items(self, ids: pl.Series) -> pl.Series:
        """Return the numbers of the items.

        An item that is not in the catalogue has the number after the last item's number.
        """
        return self._items.find(ids).fill_null(len(self._items.ids))

    def _find_popular(self, ids: pl.Series | None) -> pl.Series:
        """Return the numbers of the first popular items that the rules allow for anybody."""
        items = self._find_items(pl.Series(dtype=pl.String) if ids is None else ids)
        return items.filter(self._left_out_by.gather(items).is_null()).head(MOST_POPULAR)


def prepare_rules(published: ListTable, inputs: ListInputs) -> Rules | None:
    """Return the rules of the lists; None if the lists leave out nothing and are not filled."""
    settings = published.settings
    is_shortened = settings.applied_rules is not None or settings.seen_items is not None
    if not is_shortened and inputs.titled is None and inputs.popular is None:
        return None
    return Rules(settings.applied_rules or RuleSettings(), settings.seen_items, inputs)


def find_item_rule(rules: RuleSettings, inputs: ListInputs) -> pl.Series:
    """Find the first of the rules block, only and title that leaves out each catalogue row.

    These rules depend on the item alone. The result is the rule's index in FILTERS; null if none of
    these rules leaves out the item.
    """
    nothing = pl.Series([False]).new_from_index(0, inputs.catalogue.height)
    is_left_out = {
        BLOCK: nothing if inputs.blocked is None else inputs.find_items(inputs.blocked),
        ONLY: nothing if rules.only is None else ~inputs.match_items(rules.only),
        TITLE: nothing if inputs.titled is None else ~inputs.find_items(inputs.titled),
    }
    numbers = [
        pl.when(mask).then(pl.lit(FILTERS.index(name), dtype=pl.UInt8))
        for name, mask in is_left_out.items()
    ]
    return pl.select(pl.coalesce(numbers)).to_series()


def _repeat_number(rule: str, rows: int) -> pl.Series:
    """Return the rule's index in FILTERS, once for each of this many rows."""
    return pl.Series([FILTERS.index(rule)], dtype=pl.UInt8).new_from_index(0, rows)


def explode_members(lines: pl.DataFrame, key: str) -> pl.DataFrame:
    """Return a row for each member of these lines, in the order of the lines and members.

    The columns are the key, member and score. The score is null if Personalize gave no score.

    lines: the columns of the key, members and scores. Members and scores hold lists, best first.
    key: the name of the column that identifies a line.
    """
    nulls = pl.col("members").list.eval(pl.lit(None, dtype=pl.Float64))
    # Each member needs exactly one score, but there may be fewer scores than members.
    scores = pl.coalesce(pl.col("scores").list.concat(nulls), nulls).list.head(
        pl.col("members").list.len()
    )
    return (
        lines.filter(pl.col("members").list.len() > 0)
        .select(key, member="members", score=scores)
        .explode("member", "score")
    )
