"""Which partitions of an upstream asset are read, and what Dagster recorded of its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

import dagster as dg

EVENTS_AT_ONCE = 1000


class Materialization(NamedTuple):
    """What Dagster recorded when rows of an asset were made."""

    metadata: Mapping[str, Any]

    version: str
    """The data version, or the run's id where there is none."""

    partition: str | None
    """The key of the partition; None if the asset has none."""

    @classmethod
    def find(cls, event: dg.EventLogEntry | None) -> Self | None:
        """The materialization of an event; None without one."""
        recorded = None if event is None else event.asset_materialization
        if event is None or recorded is None:
            return None
        version = (recorded.tags or {}).get("dagster/data_version") or event.run_id
        return cls(recorded.metadata, version, recorded.partition)


def read_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey
) -> dict[str, Materialization]:
    """The last materialization of each partition of an asset, by the partition's key."""
    materializations: dict[str, Materialization] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(key, EVENTS_AT_ONCE, cursor)
        for record in page.records:
            materialization = Materialization.find(record.event_log_entry)
            if materialization is not None and materialization.partition is not None:
                materializations.setdefault(materialization.partition, materialization)
        if not page.has_more:
            return materializations
        cursor = page.cursor


class PartitionSelection(NamedTuple):
    """The partitions that are read."""

    keys: Sequence[str]
    """Their keys, in the order of the definition."""

    gaps: Sequence[str]
    """Of partitions of time, the keys between the first and the last of them that were never
    materialized."""


def select_partitions(
    definition: dg.PartitionsDefinition[str],
    materialized: Collection[str],
    instance: dg.DagsterInstance,
) -> PartitionSelection:
    """The materialized partitions that the definition has.

    materialized: the keys of all materialized partitions.
    instance: has the keys of dynamic partitions.
    """
    all_keys = [*definition.get_partition_keys(dynamic_partitions_store=instance)]
    keys = [key for key in all_keys if key in materialized]
    if not keys or not isinstance(definition, dg.TimeWindowPartitionsDefinition):
        return PartitionSelection(keys, [])
    first, last = all_keys.index(keys[0]), all_keys.index(keys[-1])
    gaps = [key for key in all_keys[first:last] if key not in materialized]
    return PartitionSelection(keys, gaps)
