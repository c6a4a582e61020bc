"""The kinds of resources of Personalize: those that pipelines create, and the others."""

from __future__ import annotations

from batchrec_dagster.personalize import resource_kinds
from batchrec_dagster.personalize.resource_kinds import ResourceKind

FOREIGN_KINDS = (
    resource_kinds.CAMPAIGN,
    resource_kinds.EVENT_TRACKER,
    resource_kinds.METRIC_ATTRIBUTION,
    resource_kinds.RECOMMENDER,
)
"""The kinds that pipelines never create, but may find in their dataset groups."""

CREATED_KINDS = tuple(
    kind
    for kind in vars(resource_kinds).values()
    if isinstance(kind, ResourceKind) and kind not in FOREIGN_KINDS
)
