"""The kinds of resources of Personalize: those that pipelines create, and the others."""

from __future__ import annotations

from batchrec_dagster.personalize import api
from batchrec_dagster.personalize.api import ResourceKind

FOREIGN_KINDS = (
    api.CAMPAIGN,
    api.EVENT_TRACKER,
    api.METRIC_ATTRIBUTION,
    api.RECOMMENDER,
)
"""The kinds that pipelines never create, but may find in their dataset groups."""

CREATED_KINDS = tuple(
    kind
    for kind in vars(api).values()
    if isinstance(kind, ResourceKind) and kind not in FOREIGN_KINDS
)
