"""The rows of a published table of lists, made from a job's lines, and their counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.list_columns import name_published_column
from batchrec_dagster.editions.edition import ListCounts
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.personalize.schemas import ITEM_ID
from batchrec_dagster.preparation.counting import ValueCounter
from batchrec_dagster.steps.data.items import add_item_columns
from batchrec_dagster.steps.data.popular_items import POPULAR, PopularItems
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.reasons import Reasons
from batchrec_dagster.steps.lists.rules import Rules, explode_members
from batchrec_dagster.steps.outcomes.arms import MODEL, assign_arms

# The number of rows of a table that the UI shows.
SAMPLE = 5
# The number of characters that are kept of a line's error.
MAX_ERROR_LENGTH = 300


class RowBuilder:
    """A builder of the published table's rows from lines, which also counts the rows.

    A line is the answer for its subject: a user, an item or a segment. Lines have the columns
    subject, members, scores and error. members and scores are lists, best first, and scores may be
    shorter than members. Lines of popular items also have the column reason. A line with an error
    gives no rows.
    """

    def __init__(
        self,
        published: ListTable,
        inputs: ListInputs,
        rules: Rules | None,
        reasons: Reasons | None,
    ) -> None:
        self.published, self.inputs = published, inputs
        self.rules = rules
        """The rules, with counts of what they did; None if the lists need no rules."""
        self.reasons = reasons
        """The builder of the reasons; None if the lists show no reasons."""
        self.sample = pl.DataFrame()
        self._lists_of = ValueCounter("member")
        self._answered = [pl.Series("subject", [], pl.String)]
        self._failed = [pl.DataFrame(schema={"subject": pl.String, "error": pl.String})]
        # The numbers of full lists, of rows by the model, of rows by the model without a score, of
        # members that are repeated within a list, and of results in all lines.
        self.full = self._of_model = self._unscored = self.repeated = self.results = 0
        self._rows = self._subjects = self._longest = 0

    def write(self, lines: Iterable[pl.DataFrame], writer: ListWriter) -> None:
        """Write the rows of the given lines. There must be at least one piece of lines."""
        for piece in lines:
            rows = self.add(piece)
            writer.write(rows.to_arrow(compat_level=pl.CompatLevel.oldest()))

    def add(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Count the lines and their rows, and return the rows."""
        answers = lines.select("subject", error=pl.col("error").str.slice(0, MAX_ERROR_LENGTH))
        self._answered.append(answers.get_column("subject"))
        self._failed.append(answers.drop_nulls("error"))
        answered = lines.filter(pl.col("error").is_null())
        self.results += int(answered.get_column("members").list.len().sum())
        rows = self._choose(answered)
        if self.published.experiment is not None:
            users = answered.select("subject").unique()
            arms = assign_arms(users.get_column("subject"), self.published.experiment)
            rows = rows.join(
                users.with_columns(arms), on="subject", how="left", maintain_order="left"
            )
        self._count(rows)
        rows = self._describe(rows)
        if not self._rows:
            self.sample = rows.head(SAMPLE)
        self._rows += rows.height
        return rows

    @property
    def answered(self) -> pl.Series:
        """The subjects of all lines, with or without an error."""
        return pl.concat(self._answered)

    @property
    def failed(self) -> pl.DataFrame:
        """The columns subject and error of the lines with an error."""
        return pl.concat(self._failed)

    @property
    def listed(self) -> pl.DataFrame:
        """A row for each listed id: the columns item and lists (the number of lists)."""
        return self._lists_of.read_counts().select(
            item="member", lists=pl.col("len").cast(pl.Int64)
        )

    @property
    def counts(self) -> ListCounts:
        """The counts of the table.

        Fields that need the interactions or the requested ids keep their defaults.
        """
        rules = self.rules
        return ListCounts(
            rows=self._rows,
            subjects=self._subjects,
            failed=self.failed.height,
            full=self.full,
            longest=self._longest,
            untitled=0 if rules is None else rules.count_untitled(),
            items=self.listed.height,
            seen_items_dropped=0 if rules is None else rules.count_seen_dropped(),
            # Personalize adds popular items without a score to scored results. If no row has a
            # score, the recipe never returns scores, and the rows are not such additions.
            items_without_score=self._unscored if self._unscored < self._of_model else 0,
        )

    def _choose(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of the lists, after the rules.

        The columns are subject, rank, member, score and, with rules, reason.
        """
        if self.published.may_list_subject:
            lines = drop_itself(lines)
        rules = self.rules
        if rules is None:
            rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("subject")
            return (
                explode_members(lines, "subject")
                .with_columns(rank=rank)
                .filter(pl.col("rank") <= self.published.settings.num_results)
                .select("subject", "rank", "member", "score")
            )
        rows = rules.apply(lines)
        if "reason" in lines.columns:
            assert self.inputs.popular is not None
            rows = name_groups(rows, lines, self.inputs.popular)
        return rows

    def _count(self, rows: pl.DataFrame) -> None:
        """Add these rows to the counts.

        rows: the columns subject, member and score, and possibly reason and arm.
        """
        lengths = rows.group_by("subject").agg(pl.len(), distinct=pl.col("member").n_unique())
        self._subjects += lengths.height
        self.full += lengths.filter(pl.col("len") >= self.published.settings.num_results).height
        self.repeated += rows.height - int(lengths.get_column("distinct").sum())
        longest: Any = lengths.get_column("len").max()
        self._longest = max(self._longest, longest or 0)
        of_model = rows
        if "arm" in rows.columns:
            of_model = of_model.filter(arm=MODEL)
        if "reason" in rows.columns:
            of_model = of_model.filter(pl.col("reason").is_null())
        self._of_model += of_model.height
        self._unscored += of_model.get_column("score").null_count()
        self._lists_of.add(rows)

    def _describe(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows with the columns of the published table, under their published names."""
        published, item_columns = self.published, self.inputs.item_columns
        subject = published.subject
        table = rows.rename({"subject": subject.column, "member": subject.member_column})
        if item_columns is not None:
            table = add_item_columns(table, item_columns, of=published.item_column)
        if self.reasons is not None:
            table = self.reasons.add(table)
        declared = [name_published_column(name) for name in published.columns]
        return table.select(published.order_columns(declared))


def drop_itself(lines: pl.DataFrame) -> pl.DataFrame:
    """Remove each item from its own list, because a recipe may return the item itself."""
    has_itself = pl.col("members").list.contains(pl.col("subject")).fill_null(value=False)
    if not lines.select(has_itself.any()).item():
        return lines
    other_items = (
        explode_members(lines, "subject")
        .filter(pl.col("subject") != pl.col("member"))
        .group_by("subject", maintain_order=True)
        .agg(members="member", scores="score")
    )
    return lines.select("subject", "error").join(
        other_items, on="subject", how="left", maintain_order="left"
    )


def name_groups(rows: pl.DataFrame, lines: pl.DataFrame, popular: PopularItems) -> pl.DataFrame:
    """Fill in the reason of popular items: the name of the group that they are popular with.

    rows: the rows of lists of popular items. A reason that a row already has stays.
    lines: the columns subject and reason. The reason names the user's group.
    popular: the popular items of each group. Items that are not popular in the user's group get
        the reason POPULAR.
    """
    of_groups = popular.of_groups.select(
        reason_of_line="reason", member=ITEM_ID, of_group=pl.col("reason")
    )
    return (
        rows.join(
            lines.select("subject", reason_of_line="reason"),
            on="subject",
            how="left",
            maintain_order="left",
        )
        .join(of_groups, on=["reason_of_line", "member"], how="left", maintain_order="left")
        .with_columns(reason=pl.coalesce("reason", "of_group", pl.lit(POPULAR)))
        .drop("reason_of_line", "of_group")
    )
