"""What a declaration says of its lists of similar items, worked out once, when it is loaded."""

from __future__ import annotations

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.steps.lists_declaration import ListsDeclaration, explain_skipping


def describe_similar_items(pipeline: Pipeline) -> ListsDeclaration:
    """What the declaration says of the lists of similar items.

    pipeline: narrowed to them.
    """
    return ListsDeclaration(
        source=pipeline.ratings.shown_source,
        settings=pipeline.deciding_settings,
        measured_on=fingerprint(pipeline.interactions),
        how_to_skip_gate=explain_skipping(pipeline),
        filter=None,
        endings_in_use=frozenset(),
    )
