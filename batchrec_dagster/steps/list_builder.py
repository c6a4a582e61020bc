"""Builds the rows of lists from the lines of a batch inference job, and counts what checks need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.list_columns import REASON, REASONS
from batchrec_dagster.personalize.schemas import ITEM_ID
from batchrec_dagster.steps.arms import MODEL, assign_arms
from batchrec_dagster.steps.batch_jobs import (
    OutputTable,
    WrittenTable,
)
from batchrec_dagster.steps.checks import (
    check_every_user_answered,
    check_lists_full,
    check_no_duplicates,
    check_no_failed_users,
    check_no_seen_items,
    check_rows_titled,
    explain_empty_lists,
)
from batchrec_dagster.steps.items import add_item_columns
from batchrec_dagster.steps.popular_items import (
    POPULAR,
    PopularItems,
)
from batchrec_dagster.steps.reasons import Reasons
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.storage.edition import Finding, ListCounts


@dataclass(frozen=True)
class ListInputs:
    """What lists are like, and what they are made with besides the lines of a job."""

    num_results: int
    """How many items a list has."""
    rules: Rules
    """What lists leave out, such as what users had, and what fills them."""
    item_columns: pl.DataFrame | None = None
    """The column item_id, and what lists have of each item; None for ids alone."""
    columns: Sequence[str] | None = None
    """The columns of the items, and the reasons, that lists have, in their order; None for all of
    `item_columns`."""
    experiment: Experiment | None = None
    """If there is one, a row has its user's arm."""
    max_failed_share: float = 0.0
    """The largest share of users whose line may have an error."""
    popular: PopularItems | None = None
    """The items that lines with a reason have."""
    is_ruled: bool = False
    """Whether rules are declared."""
    says_what_is_added: bool = False
    """Whether a row says why an item that is not the model's is there."""
    reasons: Reasons | None = None
    """Says why each item is on the list; None if lists do not have that."""

    @property
    def has_titles(self) -> bool:
        """Whether rows have a title."""
        return self.item_columns is not None and "title" in self.item_columns.columns


class ListBuilder(OutputTable):
    """The best items of each line as rows of user_id, rank, item_id and score.

    Users are in the lines' order.
    """

    def __init__(self, inputs: ListInputs) -> None:
        super().__init__(pl.col("user_id"), inputs.item_columns)
        self.inputs = inputs
        self.users = 0
        # Results in the lines.
        self._results = 0
        # Lists with all items, and rows: of the model, and of it without a score.
        self._full = 0
        self._of_model = 0
        self._unscored = 0
        self.items = pl.Series(dtype=pl.String)

    def _build_rows(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines.

        lines: the columns user_id, items and scores (best first), and error; with reason, they are
            lists of popular items.
        """
        inputs = self.inputs
        table = self._table(lines)
        if inputs.says_what_is_added:
            table = _add_reasons(table, lines, inputs.popular)
        if self.item_columns is not None:
            table = add_item_columns(table, self.item_columns)
        if inputs.experiment is not None:
            users = lines.select("user_id").unique()
            users = users.with_columns(assign_arms(users.get_column("user_id"), inputs.experiment))
            table = table.join(users, on="user_id", how="left", maintain_order="left")
        self._count(table)
        if inputs.reasons is not None:
            table = inputs.reasons.add(table)
        return self._arrange(table)

    def _arrange(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with its columns in the declared order."""
        inputs = self.inputs
        columns = inputs.columns
        if columns is None:
            columns = self.item_columns.columns[1:] if self.item_columns is not None else []
        names = ["user_id", "rank", "item_id", *columns, "score"]
        others = [name for name in table.columns if name not in names]
        if inputs.reasons is not None:
            # Lists with rules or newcomers have a reason, whatever is declared.
            kept = [REASON] if inputs.says_what_is_added else []
            others = [name for name in others if name in kept or name not in REASONS]
        return table.select(*names, *others)

    def finish(self, users: pl.Series, *, filtered: bool) -> RecommendationTable:
        """The numbers and checks of the table that was written.

        users: those whom lists were requested for.
        filtered: whether recommendations.filter is set.
        """
        counts = ListCounts(
            rows=self.rows,
            subjects=self.users,
            items=len(self.items),
            failed=self._answers.failed_lines,
            seen_items_dropped=self.inputs.rules.count_seen_dropped(),
            items_without_score=self.items_without_score,
        )
        return RecommendationTable(
            counts,
            self.sample,
            self.checks(users, filtered=filtered),
            failed=pl.concat(self._answers.failed).rename({"name": "user_id"}),
        )

    def checks(self, users: pl.Series, *, filtered: bool) -> list[Finding]:
        """The verdicts on the table.

        users: those whom lists were requested for.
        filtered: whether recommendations.filter is set.
        """
        inputs, answers = self.inputs, self._answers
        answered = pl.concat(answers.answered)
        every_user = check_every_user_answered(users, answered)
        failed, padding = answers.failed_lines, self.items_without_score
        rules = inputs.rules
        # Where all users failed, that is what is wrong, and where rules left nothing of the model's
        # results, their own check says so.
        all_failed = 0 < failed == len(answered)
        emptied_by_rules = inputs.is_ruled and self._results > 0
        if not (self.rows or all_failed or emptied_by_rules):
            every_user = explain_empty_lists(every_user)
        return [
            every_user,
            check_no_failed_users(
                failed, len(answered), answers.first_failure, inputs.max_failed_share
            ),
            check_no_duplicates(answers.repeated),
            *([check_no_seen_items(rules.filled.seen)] if rules.leaves_out_seen else []),
            check_lists_full(
                self._full,
                len(users),
                inputs.num_results,
                failed=failed,
                filtered=filtered,
                ruled=inputs.is_ruled,
                padding=padding,
            ),
            *([check_rows_titled(self.rows, rules.count_untitled())] if inputs.has_titles else []),
        ]

    @property
    def items_without_score(self) -> int:
        """How many rows have no score although others have one.

        They are popular items that Personalize added to fill a list.
        """
        return self._unscored if self._unscored < self._of_model else 0

    def _table(self, lines: pl.DataFrame) -> pl.DataFrame:
        self._results += int(lines.get_column("items").list.len().sum())
        rows = self.inputs.rules.apply(lines)
        return rows if self.inputs.says_what_is_added else rows.drop("reason")

    def _count(self, table: pl.DataFrame) -> None:
        inputs = self.inputs
        lengths = table.group_by("user_id").agg(
            pl.len(), pl.col("item_id").n_unique().alias("items")
        )
        self.users += lengths.height
        # Popularity's lists, which a control may get, have no scores.
        of_model = table if inputs.experiment is None else table.filter(arm=MODEL)
        if inputs.says_what_is_added:
            # What was added to the model's results has no score either.
            of_model = of_model.filter(pl.col("reason").is_null())
        self._of_model += of_model.height
        self._unscored += of_model.get_column("score").null_count()
        self.items = pl.concat([self.items, table.get_column("item_id").unique()]).unique()
        self._full += lengths.filter(pl.col("len") >= inputs.num_results).height
        self._answers.repeated += table.height - int(lengths.get_column("items").sum())


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
class RecommendationTable(WrittenTable[ListCounts]):
    """A written table of lists for users, whose facts have the names in LIST_FACTS."""

    failed: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The columns user_id and error, of the users whose line has an error."""
