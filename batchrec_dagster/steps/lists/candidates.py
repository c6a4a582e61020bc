"""The lines that lists are made from, in one form, whatever made their candidates.

A line has the candidates of one user, item or segment. They come from a batch job, from counting
the items that people had together, or from popular items.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.config.list_columns import SIMILAR_ITEM_COLUMN
from batchrec_dagster.config.list_table import ItemLists
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.popular_items import PopularItems
from batchrec_dagster.steps.lists.audience import Audience
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.item_pairs import find_bought_together
from batchrec_dagster.steps.lists.job import FinishedJob
from batchrec_dagster.storage.progress import Progress

# The number of items that `make_lines` makes lines for at once.
ITEMS_AT_ONCE = 20_000
# The number of users who get their lists of popular items at once.
USERS_AT_ONCE = 20_000


def iterate_lines(
    step: StepContext,
    published: ListTable,
    audience: Audience,
    inputs: ListInputs,
    num_results: int,
    job: FinishedJob | None,
) -> Iterator[pl.DataFrame]:
    """Yield the lines of all lists, as tables for `RowBuilder.write`.

    num_results: the largest number of candidates in a line.
    job: the finished batch job; None if items bought together are counted instead.

    Raises UserError if the output of the job is damaged.
    """
    title = f"{published.subject.noun}s' lists written"
    progress = Progress(title, len(audience.served), step.resources.log.debug)
    if job is not None:
        model_lines = job.output(step.storage).lines()
    else:
        assert isinstance(published, ItemLists)
        model_lines = _count_together(published, audience, inputs, num_results)
    for lines in model_lines:
        yield lines
        progress.add(lines.height)
    if inputs.popular is not None and audience.popular.height:
        for lines in make_popular_lines(audience.popular, inputs.popular, num_results):
            yield lines
            progress.add(lines.height)
    progress.end()


def _count_together(
    published: ItemLists, audience: Audience, inputs: ListInputs, num_results: int
) -> Iterator[pl.DataFrame]:
    """Return the lines of the items that people bought together."""
    settings = published.similar_items
    assert settings.within_days is not None
    pairs = find_bought_together(
        inputs.interactions,
        within_days=settings.within_days,
        most=num_results,
        events=settings.events or (),
    )
    return make_lines(audience.of_model, pairs)


def make_lines(items: pl.Series, pairs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield tables of lines with a list of similar items for each item.

    There is at least one table, which may be empty.

    items: the ids of the items that get a line. An item without pairs gets an empty list.
    pairs: the columns item_id, similar_item_id and score, best first.
    """
    types = {"members": pl.List(pl.String), "scores": pl.List(pl.Float64)}
    lists = pairs.group_by(subject="item_id", maintain_order=True).agg(
        members=SIMILAR_ITEM_COLUMN, scores="score"
    )
    requested = items.alias("subject").to_frame()
    for piece in requested.iter_slices(ITEMS_AT_ONCE) if requested.height else [requested]:
        yield (
            piece.join(lists, on="subject", how="left", maintain_order="left")
            .with_columns(pl.col(name).fill_null([]).cast(kind) for name, kind in types.items())
            .with_columns(error=pl.lit(None, dtype=pl.String))
        )


def make_popular_lines(
    users: pl.DataFrame, popular: PopularItems, length: int
) -> Iterator[pl.DataFrame]:
    """Yield tables of lines with a list of popular items for each user.

    The lines have the columns of a batch inference job's lines, and the column reason. The columns
    are subject, members (best first), scores (empty), error (null) and reason.

    users: the columns subject (the user's id) and reason.
    length: the largest number of items in a line.
    """
    items = {reason: ids.head(length) for reason, ids in popular.by_reason.items()}
    lists = pl.DataFrame(
        {"reason": [*items], "members": [*items.values()]},
        schema={"reason": pl.String, "members": pl.List(pl.String)},
    )
    for piece in users.iter_slices(USERS_AT_ONCE):
        yield piece.join(lists, on="reason", how="left", maintain_order="left").select(
            "subject",
            "members",
            scores=pl.lit([], dtype=pl.List(pl.Float64)),
            error=pl.lit(None, dtype=pl.String),
            reason="reason",
        )
