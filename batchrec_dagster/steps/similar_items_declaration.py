"""What a declaration says of its lists of similar items, worked out once, when it is loaded."""

from __future__ import annotations

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.steps.batch_jobs import FilterDeclaration, declare_filter
from batchrec_dagster.steps.lists_declaration import ListsDeclaration, explain_skipping


def describe_similar_items(pipeline: Pipeline) -> ListsDeclaration:
    """What the declaration says of the lists of similar items.

    pipeline: narrowed to them.
    """
    return ListsDeclaration(
        source=pipeline.ratings.shown_source,
        settings=pipeline.making_lists,
        measured_on=fingerprint(pipeline.interactions),
        how_to_skip_gate=explain_skipping(pipeline, "similar_items"),
        filter=declare_similar_items_filter(pipeline),
        endings_in_use=frozenset(),
    )


def declare_similar_items_filter(pipeline: Pipeline) -> FilterDeclaration | None:
    """The filter in Personalize; None if there is none."""
    settings = pipeline.similar_items
    if settings is None or settings.filter is None or settings.is_bought_together:
        return None
    return declare_filter("similar_items.filter", settings.filter)
