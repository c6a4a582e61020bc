"""Batch segment jobs: for each input line, the users most likely to want the line's items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from batchrec_dagster.personalize import formats
from batchrec_dagster.personalize.conditions import check_condition
from batchrec_dagster.personalize.filters import (
    FilterExpressionError,
    iterate_comparisons,
    parse_attributes,
)
from batchrec_dagster.personalize.recipes import ITEM_ATTRIBUTE_AFFINITY
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, Schema

from ..batch_lines import AnswerLines, InputLine
from ..engine.data import Ids, Int32, Interactions, find_positions, string_series
from ..engine.segments import SegmentModel
from ..errors import InvalidInputError
from ..filter_masks import Mask, mask_users, match_ids, read_attributes
from ..imported_rows import ReadColumns
from ..jobs import Job
from ..resources import ApiRequest, Kind, NewResource
from .batch_jobs import DEFAULT_RESULTS, TrainedVersion, check_batch_request, run_batch_job
from .dataset_groups import read_schema

USERS_AT_ONCE = 32 << 20
"""The number of users in the segments that are held in memory at once. They take 128 MiB."""

FindItems = Callable[[str], Int32]
"""A function that returns the positions of a line's items. It raises FilterExpressionError."""


def _create(request: ApiRequest) -> NewResource:
    params = request.params
    recipe, filter_traits = check_batch_request(request, segments=True)
    if filter_traits and filter_traits.uses_interactions and recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        raise InvalidInputError(
            f"A filter on interactions cannot be used with {ITEM_ATTRIBUTE_AFFINITY}."
        )
    return NewResource({"numResults": params.get("numResults", DEFAULT_RESULTS)})


@dataclass(frozen=True)
class Segmenter:
    """A model with the current interactions and the job's options."""

    model: SegmentModel
    interactions: Interactions
    num_results: int
    find_items: FindItems
    users: Mask
    """A mask of the users of the interactions that may be in a segment."""
    count_progress: Callable[[str, int], Callable[[int], None]]
    """The method `Job.count_progress`."""

    def answer_lines(self, lines: Sequence[InputLine]) -> Iterator[str]:
        """Yield the output line of each input line."""
        queries = [self._find_query(line) for line in lines]
        segments = self._list_users([query for query in queries if not isinstance(query, str)])
        for line, query in zip(lines, queries, strict=True):
            if isinstance(query, str):
                yield formats.format_segment_line(line.content, [], error=f"User error: {query}")
            else:
                yield formats.format_segment_line(line.content, next(segments))

    def _find_query(self, line: InputLine) -> Int32 | str:
        """Return the positions of the line's items, or the reason why the line has no answer."""
        if line.problem is not None:
            return line.problem
        try:
            items = self.find_items(line.subject)
        except FilterExpressionError as error:
            return str(error)
        return items if len(items) else f"no known item matches {line.subject}"

    def _list_users(self, queries: Sequence[Int32]) -> Iterator[list[str]]:
        """Yield the ids of the users in each segment, best first."""
        size = min(self.num_results, len(self.interactions.user_ids))
        queries_at_once = max(1, USERS_AT_ONCE // max(1, size))
        for start in range(0, len(queries), queries_at_once):
            batch = queries[start : start + queries_at_once]
            unit = f"users scored for {len(batch)} segments"
            count = self.count_progress(unit, int(self.users.sum()))
            for users in self.model.list_users(
                batch, self.interactions, size, users=self.users, checkpoint=count
            ):
                yield self.interactions.user_ids[users].tolist()


def find_item(item_ids: Ids, item_id: str) -> Int32:
    """Return an array with an item's position, or an empty array if the model lacks the item.

    item_ids: the model's items.
    """
    positions = find_positions(item_ids, [item_id])
    return positions[positions >= 0]


def find_items_by_attributes(
    item_ids: Ids, schema: Schema, read: ReadColumns, expression: str
) -> Int32:
    """Return the positions of the items with matching attributes.

    Attributes are compared as in filters.

    item_ids: the model's items.
    schema: the schema of the Items dataset.
    read: reads columns of the group's datasets.

    Raises FilterExpressionError if the expression is wrong.
    """
    condition = parse_attributes(expression)
    check_condition(condition, ITEMS, {ITEMS: schema})
    columns = [comparison.field.column for comparison in iterate_comparisons(condition)]
    rows = read_attributes(ITEMS, columns, read)
    ids = string_series(item_ids)
    return np.flatnonzero(match_ids(condition, rows, ids)).astype(np.int32)


def _make_answers(job: Job, trained: TrainedVersion) -> AnswerLines:
    """Load the interactions, item attributes and filter, and return the function for lines.

    The returned function answers the job's lines. Raises JobFailedError.
    """
    model, group_arn = trained.model, trained.group_arn
    assert isinstance(model, SegmentModel)
    reader = job.make_reader(full_imports_only=True)
    read = reader.make_group_reader(group_arn)
    interactions = reader.read_interactions(reader.find_dataset(group_arn, INTERACTIONS))
    user_ids = interactions.user_ids
    job.report_progress(f"{len(user_ids):,} users, {len(model.item_ids):,} items")
    users = np.ones(len(user_ids), bool)
    if trained.filter_expression:
        users = mask_users(trained.filter_expression, read, user_ids)
    find_items: FindItems = partial(find_item, model.item_ids)
    if trained.recipe.name == ITEM_ATTRIBUTE_AFFINITY:
        items_arn = reader.find_dataset(group_arn, ITEMS)
        with job.catalogue.open_for_reading() as transaction:
            schema = read_schema(transaction, transaction.require(items_arn))
        find_items = partial(find_items_by_attributes, model.item_ids, schema, read)
    return Segmenter(
        model,
        interactions,
        job.resource.body["numResults"],
        find_items,
        users,
        job.count_progress,
    ).answer_lines


BATCH_SEGMENT_JOB = Kind(
    "BatchSegmentJob",
    _create,
    parent_member="solutionVersionArn",
    perform=partial(run_batch_job, make_answers=_make_answers),
    turn="inference",
)
