"""The table of similar items, built from lines with the items that go with each item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from batchrec_dagster.config import PublishedList
from batchrec_dagster.config.list_columns import SIMILAR_ITEM_COLUMN, name_published_column
from batchrec_dagster.steps.batch_jobs import (
    OutputTable,
    WrittenTable,
    explode_results,
)
from batchrec_dagster.steps.checks import (
    check_items_known,
    check_no_duplicates,
    check_rows_titled,
)
from batchrec_dagster.steps.item_checks import (
    check_every_item_answered,
    check_items_have_lists,
    check_no_failed_items,
)
from batchrec_dagster.steps.items import add_item_columns, read_item_columns, read_item_ids
from batchrec_dagster.steps.list_rules import check_lists_not_emptied, describe_rules
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.edition import ListCounts
from batchrec_dagster.storage.list_file import ListWriter

# What an edition's metadata have besides `ListCounts`: what each rule did.
RULES = "rules"
# Counted lists become lines for this many items at once.
ITEMS_AT_ONCE = 20_000


SimilarItemsTable = WrittenTable[ListCounts]
"""The written table of similar items. Its facts have what each rule did."""


class ItemListBuilder(OutputTable):
    """The best items of each line as rows of item_id, rank, similar_item_id and score.

    num_results: how many items a list has.
    item_columns: the column item_id, and what lists have of each similar item; None for ids alone.
    columns: these columns, in their order.
    rules: the rules of lists; None without rules.
    """

    def __init__(
        self,
        num_results: int,
        item_columns: pl.DataFrame | None,
        columns: Sequence[str],
        rules: Rules | None,
    ) -> None:
        super().__init__(pl.col("item_id"), item_columns)
        self.num_results, self.columns, self.rules = num_results, columns, rules
        self.items = self._full = 0
        self.similar_items = pl.Series(dtype=pl.String)

    def _build_rows(self, lines: pl.DataFrame) -> pl.DataFrame:
        """The rows of these lines.

        lines: the columns item_id, items and scores (best first), and error.
        """
        table = self._choose(lines).select(
            "rank", "score", item_id="user_id", **{SIMILAR_ITEM_COLUMN: "item_id"}
        )
        if self.item_columns is not None:
            table = add_item_columns(table, self.item_columns, of=SIMILAR_ITEM_COLUMN)
        self._count(table)
        return table.select("item_id", "rank", SIMILAR_ITEM_COLUMN, *self.columns, "score")

    def _choose(self, lines: pl.DataFrame) -> pl.DataFrame:
        """What is on the lists, with the columns that rules know: the item whose list it is stands
        in the place of the user."""
        results = (
            explode_results(lines, "item_id")
            .select(user_id="item_id", item_id="result", score="score")
            # No item goes with itself, whatever a recipe says.
            .filter(pl.col("user_id") != pl.col("item_id"))
        )
        if self.rules is not None:
            lists = results.group_by("user_id", maintain_order=True).agg(
                items="item_id", scores="score"
            )
            items = lines.select(user_id=pl.col("item_id").unique(maintain_order=True))
            return self.rules.apply(
                items.join(lists, on="user_id", how="left", maintain_order="left")
            )
        return results.with_columns(
            rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id")
        ).filter(pl.col("rank") <= self.num_results)

    def _count(self, table: pl.DataFrame) -> None:
        similar = pl.col(SIMILAR_ITEM_COLUMN)
        lengths = table.group_by("item_id").agg(pl.len(), distinct=similar.n_unique())
        self.items += lengths.height
        self._full += lengths.filter(pl.col("len") >= self.num_results).height
        self._answers.repeated += table.height - int(lengths.get_column("distinct").sum())
        listed = table.get_column(SIMILAR_ITEM_COLUMN)
        self.similar_items = pl.concat([self.similar_items, listed]).unique()

    def finish(self, requested: pl.Series) -> SimilarItemsTable:
        """The numbers and checks of the table that was written.

        requested: the items that lists were requested for.
        """
        counts = self._answers
        answered = pl.concat(counts.answered)
        failed = counts.failed_lines
        checks = [
            check_every_item_answered(requested, answered, rows=self.rows),
            check_no_failed_items(failed, len(answered), counts.first_failure),
            check_no_duplicates(counts.repeated),
            check_items_have_lists(len(requested), self.items, self._full, self.num_results),
        ]
        if "title" in self.columns:
            left_out = 0 if self.rules is None else self.rules.count_untitled()
            checks.append(check_rows_titled(self.rows, left_out))
        in_table = ListCounts(
            rows=self.rows, subjects=self.items, items=len(self.similar_items), failed=failed
        )
        return SimilarItemsTable(in_table, self.sample, checks)


def build_item_lists(
    work: Work,
    published: PublishedList,
    pieces: Iterable[pl.DataFrame],
    requested: pl.Series,
    rules: Rules | None,
    writer: ListWriter,
) -> SimilarItemsTable:
    """Write the table of similar items.

    pieces: lines as `ItemListBuilder` takes them.
    requested: the items that lists were requested for.
    rules: None without rules.
    Raises UserError, and UserError if an output cannot be read.
    """
    columns = [name_published_column(name) for name in published.columns]
    if rules is not None:
        rules.start()
    lists = ItemListBuilder(
        published.settings.num_results, read_item_columns(work, published), columns, rules
    )
    lists.write(pieces, writer)
    table = lists.finish(requested)
    checks, facts = [*table.checks], {}
    if work.pipeline.items is not None:
        # No filter lets items through that the file does not have: without people there is no IF.
        checks.append(check_items_known(lists.similar_items, read_item_ids(work)))
    if rules is not None and published.settings.applied_rules is not None:
        share = published.gate.max_emptied_share
        checks.append(check_lists_not_emptied(rules, share, published.setting))
        facts[RULES] = describe_rules(rules)
    return SimilarItemsTable(table.counts, table.sample, checks, facts)


def make_item_lines(requested: pl.Series, lists: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Counted lists in the form of the lines of a batch inference job.

    The columns are item_id, items and scores (best first), and error. There is at least one piece.

    requested: the items that get a line, each once.
    lists: the columns item_id, similar_item_id and score, best first.
    """
    schema = {"items": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    grouped = lists.group_by("item_id", maintain_order=True).agg(
        items=SIMILAR_ITEM_COLUMN, scores="score"
    )
    items = pl.DataFrame({"item_id": requested})
    for piece in items.iter_slices(ITEMS_AT_ONCE) if items.height else [items]:
        yield (
            piece.join(grouped, on="item_id", how="left", maintain_order="left")
            .with_columns(pl.col(name).fill_null([]).cast(kind) for name, kind in schema.items())
            .with_columns(error=pl.lit(None, dtype=pl.String))
        )
