"""The table of recommendations, built from a batch inference's output, before it is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.list_columns import REASON, REASON_ITEM, name_published_column
from batchrec_dagster.explanations.list_reasons import RESULTS_AT_ONCE
from batchrec_dagster.outcomes.arms import MODEL, assign_arms
from batchrec_dagster.personalize.file_formats import read_inference, scan_interactions
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.rules.pairs import Pairs, find_positions
from batchrec_dagster.rules.prepared import PreparedRules
from batchrec_dagster.steps.batch_jobs import (
    AnswerCounts,
    JobOutput,
    OutputTable,
    log_progress,
)
from batchrec_dagster.steps.batches import DividedUsers
from batchrec_dagster.steps.checks import (
    CheckResult,
    check_every_user_answered,
    check_items_known,
    check_lists_full,
    check_no_duplicates,
    check_no_failed_users,
    check_no_seen_items,
    check_rows_titled,
    explain_empty_lists,
)
from batchrec_dagster.steps.diversity import ListDiversity, read_diversity
from batchrec_dagster.steps.items import add_item_columns, read_item_columns, read_item_ids
from batchrec_dagster.steps.list_reasons import RowReasons, merge_pieces, prepare_reasons
from batchrec_dagster.steps.list_rules import (
    RuleInputs,
    check_lists_not_emptied,
    check_results_enough,
    check_rules_suit_data,
    describe_rules,
    prepare_rules,
)
from batchrec_dagster.steps.popular_items import (
    POPULAR,
    PopularItems,
    make_popular_lines,
    read_popular_items,
)
from batchrec_dagster.steps.rule_costs import measure_rule_costs
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.progress import Progress
from batchrec_dagster.storage.published_table import Edition, TableWriter

# What an edition's metadata have besides `ListCounts`, where there is something to say: what each
# rule did, how lists were filled then, and how many values of a category a list has.
RULES, FILLED, DIVERSITY = "rules", "filled", "diversity"
# Besides, which items were popular, if lists have such items, and what newcomers got.
POPULARITY, NEWCOMERS = "popularity", "newcomers"
# And what each rule costs in NDCG, and how many rows have each reason.
RULE_COSTS, REASON_COUNTS = "rule_costs", "reasons"
LIST_FACTS = (RULES, FILLED, DIVERSITY, POPULARITY, NEWCOMERS, RULE_COSTS, REASON_COUNTS)


class SeenItems:
    """The items that each of these users has interacted with.

    users: distinct ids.
    """

    def __init__(self, interactions: pl.LazyFrame, users: pl.Series) -> None:
        items = interactions.select(ITEM_ID).unique().collect(engine="streaming")
        self._users = pl.DataFrame({"user_id": users}).with_row_index("user")
        self._items = items.select(item_id=ITEM_ID).with_row_index("item")
        # The positions in two lists. Joins would find them too, with half more memory.
        self._pairs = Pairs(
            interactions.select(
                user=find_positions(USER_ID, self._users.get_column("user_id")),
                item=find_positions(ITEM_ID, self._items.get_column("item_id")),
            )
        )

    @property
    def longest(self) -> int:
        """How many items the user with the most has interacted with."""
        return int(np.bincount(self._pairs.users).max(initial=0))

    def count(self, users: pl.Series) -> pl.Series:
        """How many items each of these users has interacted with."""
        counts = np.bincount(self._pairs.users, minlength=self._users.height)
        items = self._users.select("user_id", items=pl.Series(counts, dtype=pl.Int64))
        numbered = (
            users.alias("user_id")
            .to_frame()
            .join(items, on="user_id", how="left", maintain_order="left")
        )
        return numbered.get_column("items").fill_null(0)

    def contain(self, table: pl.DataFrame) -> pl.Series:
        """For each row of user_id and item_id, whether the user has interacted with the item."""
        # Fewer users make the join of a small table fast.
        users = self._users.join(table.select("user_id").unique(), on="user_id", how="semi")
        return self._pairs.contain(
            table.select("user_id", "item_id")
            .join(users, on="user_id", how="left", maintain_order="left")
            .join(self._items, on="item_id", how="left", maintain_order="left")
        )


class ListBuilder(OutputTable):
    """The best items of each line as rows of user_id, rank, item_id and score.

    Users are in the lines' order.

    num_results: how many items a list has.
    seen: the items that are left out of each user's list; None leaves out none.
    rules: the rules of lists, which leave out seen items themselves; None without rules.
    item_columns: the column item_id, and what lists have of each item; None for ids alone.
    experiment: if there is one, a row has its user's arm.
    max_failed_share: the largest share of users whose line may have an error.
    diversity: counts the categories of each list; None if no categories are declared.
    with_reasons: whether a row says why an item that is not the model's is there.
    popular: the items that lines with a reason have.
    columns: the columns of the items, and the reasons, that lists have, in their order; None for
        all of `item_columns`.
    reasons: says why each item is on the list; None if lists do not have that.
    """

    def __init__(
        self,
        num_results: int,
        seen: SeenItems | None = None,
        item_columns: pl.DataFrame | None = None,
        experiment: Experiment | None = None,
        max_failed_share: float = 0.0,
        rules: PreparedRules | None = None,
        diversity: ListDiversity | None = None,
        *,
        with_reasons: bool = False,
        popular: PopularItems | None = None,
        columns: Sequence[str] | None = None,
        reasons: RowReasons | None = None,
    ) -> None:
        super().__init__(pl.col("user_id"), item_columns)
        self.num_results, self.seen, self.experiment = num_results, seen, experiment
        self.max_failed_share = max_failed_share
        self.rules, self.diversity = rules, diversity
        self.with_reasons = with_reasons or rules is not None
        self.popular = popular
        self.columns, self.reasons = columns, reasons
        self.users = self.dropped = self._unscored = self._of_model = self._seen = self._full = 0
        self._results = 0
        self._untitled = 0
        self.items = pl.Series(dtype=pl.String)

    def _build_rows(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines.

        lines: the columns user_id, items and scores (best first), and error; with reason, they are
            lists of popular items.
        """
        table = self._table(lines)
        if self.with_reasons:
            table = _add_reasons(table, lines, self.popular)
        if self.item_columns is not None:
            table = add_item_columns(table, self.item_columns)
        if self.experiment is not None:
            users = lines.select("user_id").unique()
            users = users.with_columns(assign_arms(users.get_column("user_id"), self.experiment))
            table = table.join(users, on="user_id", how="left", maintain_order="left")
        self._count(table)
        if self.reasons is not None:
            table = self.reasons.add(table)
        return self._arrange(table)

    def _arrange(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with its columns in the declared order."""
        columns = self.columns
        if columns is None:
            columns = self.item_columns.columns[1:] if self.item_columns is not None else []
        names = ["user_id", "rank", "item_id", *columns, "score"]
        others = [name for name in table.columns if name not in names]
        if self.reasons is not None:
            # Lists with rules or newcomers have a reason, whatever is declared.
            undeclared = [REASON_ITEM, *([] if self.with_reasons else [REASON])]
            others = [name for name in others if name not in undeclared]
        return table.select(*names, *others)

    def finish(self, requested: Sequence[pl.Series], *, filtered: bool) -> RecommendationTable:
        """The numbers and checks of the table that was written.

        requested: for each output, the users whom lists were requested for.
        filtered: whether recommendations.filter is set.
        """
        total = AnswerCounts.add_up(self._outputs)
        counts = ListCounts(
            self.rows,
            self.users,
            len(self.items),
            self.seen_items_dropped,
            self.items_without_score,
            total.failed_lines,
        )
        checks = self.checks(pl.concat(requested), filtered=filtered)
        return RecommendationTable(
            counts,
            self.sample,
            checks,
            failed=pl.concat(total.failed).rename({"name": "user_id"}),
            rejected=self._find_rejected(requested) if any(c.blocks for c in checks) else [],
        )

    def checks(self, users: pl.Series, *, filtered: bool) -> list[CheckResult]:
        """The verdicts on all outputs together.

        users: those whom lists were requested for.
        filtered: whether recommendations.filter is set.
        """
        total = AnswerCounts.add_up(self._outputs)
        every_user, *others = self._check_answers(users, total)
        failed, padding = total.failed_lines, self.items_without_score
        seen_items = self.seen_items_listed
        # Where all users failed, that is what is wrong, and where rules left nothing of the model's
        # results, their own check says so.
        all_failed = 0 < failed == sum(map(len, total.answered))
        emptied_by_rules = self.rules is not None and self._results > 0
        if not (self.rows or all_failed or emptied_by_rules):
            every_user = explain_empty_lists(every_user)
        return [
            every_user,
            *others,
            *([] if seen_items is None else [check_no_seen_items(seen_items)]),
            check_lists_full(
                self._full,
                len(users),
                self.num_results,
                failed=failed,
                filtered=filtered,
                ruled=self.rules is not None,
                padding=padding,
            ),
            *([check_rows_titled(self.rows, self._untitled)] if self._has_titles else []),
        ]

    @property
    def _has_titles(self) -> bool:
        """Whether rows have a title."""
        return self.item_columns is not None and "title" in self.item_columns.columns

    @property
    def seen_items_listed(self) -> int | None:
        """How many rows have an item that the user had; None if lists may contain that."""
        if self.rules is not None:
            return self.rules.filled.seen if self.rules.leaves_out_seen else None
        return None if self.seen is None else self._seen

    @property
    def seen_items_dropped(self) -> int:
        """How many results were left out because their user had the item."""
        return self.dropped if self.rules is None else self.rules.count_seen_dropped()

    def _check_answers(self, users: pl.Series, counts: AnswerCounts) -> list[CheckResult]:
        """What another job may make better: every_user_answered and two more."""
        answered = pl.concat(counts.answered)
        return [
            check_every_user_answered(users, answered),
            check_no_failed_users(
                counts.failed_lines, len(answered), counts.first_failure, self.max_failed_share
            ),
            check_no_duplicates(counts.repeated),
        ]

    def _find_rejected(self, requested: Sequence[pl.Series]) -> list[int]:
        """The places of the outputs that do not pass on their own.

        One of two outputs may have a larger share of failed users than both together.
        """
        return [
            place
            for place, (users, counts) in enumerate(zip(requested, self._outputs, strict=True))
            if any(check.blocks for check in self._check_answers(users, counts))
        ]

    @property
    def items_without_score(self) -> int:
        """How many rows have no score although others have one.

        They are popular items that Personalize added to fill a list. 0 for Popularity-Count, which
        gives no scores at all.
        """
        return self._unscored if self._unscored < self._of_model else 0

    def _table(self, lines: pl.DataFrame) -> pl.DataFrame:
        # One score for each item, null where Personalize gave none.
        nulls = pl.col("items").list.eval(pl.lit(None, dtype=pl.Float64))
        scores = pl.coalesce(pl.col("scores").list.concat(nulls), nulls).list.head(
            pl.col("items").list.len()
        )
        results = (
            lines.filter(pl.col("items").list.len() > 0)
            .select("user_id", item_id="items", score=scores)
            .explode("item_id", "score")
        )
        self._results += results.height
        if self.rules is not None:
            users = lines.get_column("user_id").unique(maintain_order=True)
            return self.rules.apply(users, results)
        unseen = results if self.seen is None else results.filter(~self.seen.contain(results))
        if "reason" not in lines.columns:
            self.dropped += results.height - unseen.height
        return (
            unseen.with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
            .filter(pl.col("rank") <= self.num_results)
            .select("user_id", "rank", "item_id", "score")
        )

    def _count(self, table: pl.DataFrame) -> None:
        lengths = table.group_by("user_id").agg(
            pl.len(), pl.col("item_id").n_unique().alias("items")
        )
        self.users += lengths.height
        # Popularity's lists, which a control may get, have no scores.
        of_model = table if self.experiment is None else table.filter(arm=MODEL)
        if self.with_reasons:
            # What was added to the model's results has no score either.
            of_model = of_model.filter(pl.col("reason").is_null())
        self._of_model += of_model.height
        if self._has_titles:
            self._untitled += table.get_column("title").null_count()
        self._unscored += of_model.get_column("score").null_count()
        self.items = pl.concat([self.items, table.get_column("item_id").unique()]).unique()
        self._full += lengths.filter(pl.col("len") >= self.num_results).height
        self._outputs[-1].repeated += table.height - int(lengths.get_column("items").sum())
        if self.seen is not None:
            self._seen += int(self.seen.contain(table).sum())
        if self.diversity is not None:
            self.diversity.add(table)


def _add_reasons(
    table: pl.DataFrame, lines: pl.DataFrame, popular: PopularItems | None
) -> pl.DataFrame:
    """The table with the column reason: that of a rule, or else of the line.

    What is popular everywhere, and not in the group of a user, says so.
    """
    if "reason" not in table.columns:
        table = table.with_columns(reason=pl.lit(None, dtype=pl.String))
    if "reason" not in lines.columns or popular is None:
        return table
    of_groups = popular.of_groups.select(
        reason_of_line="reason", item_id=ITEM_ID, of_group=pl.col("reason")
    )
    return (
        table.join(
            lines.select("user_id", reason_of_line="reason"),
            on="user_id",
            how="left",
            maintain_order="left",
        )
        .join(of_groups, on=["reason_of_line", "item_id"], how="left", maintain_order="left")
        .with_columns(reason=pl.coalesce("reason", "of_group", pl.lit(POPULAR)))
        .drop("reason_of_line", "of_group")
    )


@dataclass(frozen=True)
class ListCounts:
    """What is in a table. An edition's metadata have these numbers too."""

    rows: int
    users: int
    items: int
    """How many distinct items are in the lists."""
    seen_items_dropped: int
    """How many results were left out because their user had already seen the item."""
    items_without_score: int
    """How many rows are popular items that Personalize added without a score."""
    failed_users: int = 0
    """How many requested users have no list because Personalize returned an error for them."""


@dataclass(frozen=True)
class RecommendationTable:
    """A written table: its numbers, first rows and checks."""

    counts: ListCounts
    sample: pl.DataFrame
    checks: list[CheckResult]
    failed: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The columns user_id and error, of the users whose line has an error."""
    rejected: Sequence[int] = ()
    """The places of the outputs that another job should make again, if a check blocks."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More about the lists, for their metadata, by the names in LIST_FACTS."""


def build_table(
    work: PersonalizeWork,
    outputs: Sequence[JobOutput],
    users: DividedUsers,
    interactions: KnownInteractions,
    table: TableWriter,
    *,
    num_results: int,
) -> RecommendationTable:
    """Write the table from the jobs' outputs and of popular items.

    users: who gets which of them.
    num_results: how many results the jobs were asked for, for each user.
    Raises StorageError, and RejectedOutputsError if an output cannot be read.
    """
    pipeline, settings, rules = work.pipeline, work.pipeline.recommendations, interactions.rules
    item_columns = read_item_columns(work)
    diversity = read_diversity(work)
    if rules is not None:
        rules.start()
    reasons = interactions.reasons
    if reasons is not None:
        reasons.start()
    lists = ListBuilder(
        settings.num_results,
        interactions.seen,
        item_columns,
        pipeline.experiment,
        settings.max_failed_share,
        rules,
        diversity,
        with_reasons=settings.lists_have_reasons,
        popular=interactions.popular,
        columns=[name_published_column(name) for name in pipeline.list_columns],
        reasons=reasons,
    )
    requested = [batch.users for batch in users.batches]
    progress = Progress("users' lists written", sum(map(len, requested)), work.ensure.log.info)
    for output in outputs:
        pieces = output.pieces(read_inference)
        if reasons is not None:
            pieces = merge_pieces(pieces, RESULTS_AT_ONCE)
        lists.write(log_progress(pieces, progress), table)
    popular = interactions.popular
    if popular is not None and users.popular.height:
        ids = users.popular.get_column("user_id")
        requested.append(ids)
        length = pl.Series([num_results]).new_from_index(0, len(ids))
        if interactions.seen is not None:
            length = settings.num_results + interactions.seen.count(ids)
        lines = make_popular_lines(users.popular.with_columns(length=length), popular.by_reason)
        lists.write(log_progress(lines, progress), table)
    progress.end()
    built = lists.finish(requested, filtered=settings.filter is not None)
    checks = [*built.checks]
    facts: dict[str, Any] = {}
    if popular is not None:
        facts[POPULARITY] = popular.describe(pipeline.popularity)
    if users.newcomers is not None:
        facts[NEWCOMERS] = {
            "users": users.newcomers,
            "get": settings.model_dump(mode="json")["newcomers"],
        }
    if pipeline.items is not None:
        checks.append(check_items_known(lists.items, read_item_ids(work), settings.open_filter))
    if diversity is not None:
        facts[DIVERSITY] = diversity.summarize()
    if rules is not None:
        checks += interactions.rule_checks
        checks += [
            check_lists_not_emptied(rules, pipeline.gate.max_emptied_share),
            check_results_enough(rules, num_results, work.ensure.max_results),
        ]
        facts[RULES] = describe_rules(rules)
        facts[FILLED] = asdict(rules.filled)
        if interactions.rule_costs is not None:
            facts[RULE_COSTS] = interactions.rule_costs
    if reasons is not None:
        facts[REASON_COUNTS] = dict(reasons.counts)
    return replace(built, checks=checks, facts=facts)


@dataclass(frozen=True)
class KnownInteractions:
    """The interactions that an edition is made from."""

    seen: SeenItems | None
    """What its users have interacted with; None if lists may contain that, and with rules, which
    know it themselves."""
    until: int
    """The time of the newest interaction, in epoch seconds."""
    rules: PreparedRules | None = None
    """The rules of lists; None without rules."""
    rule_checks: Sequence[CheckResult] = ()
    """Whether the rules suit the interactions and what else they read."""
    popular: PopularItems | None = None
    """The popular items; None if no list needs any."""
    rule_costs: Mapping[str, Any] | None = None
    """What each rule costs in NDCG; None where that is not known."""
    reasons: RowReasons | None = None
    """Says why each item is on a list; None if lists do not have that."""


def read_interactions(
    work: PersonalizeWork,
    divided: DividedUsers,
    rule_inputs: RuleInputs | None = None,
    edition: Edition | None = None,
) -> KnownInteractions:
    """The interactions as they are when lists are made for these users. Raises StorageError.

    rule_inputs: what the rules of lists read besides; None without rules.
    edition: the published one, by which it is measured what rules cost.
    """
    settings, users = work.pipeline.recommendations, divided.ids
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming").item()
        reasons = prepare_reasons(work, interactions, users)
        popular = None
        if settings.rules is not None or divided.popular.height:
            popular = read_popular_items(work, interactions, divided.popular.get_column("reason"))
        if settings.rules is not None and rule_inputs is not None and popular is not None:
            rules, context = prepare_rules(
                work, settings.rules, rule_inputs, interactions, users, int(newest), popular
            )
            checks = [check_rules_suit_data(settings.rules, context, rules)]
            costs = measure_rule_costs(work, context, interactions, edition, popular.days)
            return KnownInteractions(None, int(newest), rules, checks, popular, costs, reasons)
        seen = SeenItems(interactions, users) if settings.exclude_seen else None
        return KnownInteractions(seen, int(newest), popular=popular, reasons=reasons)
