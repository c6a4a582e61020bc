"""Which partitions of an upstream asset are read, and what Dagster recorded of its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

import dagster as dg

from batchrec_dagster.steps.errors import StepError

EVENTS_AT_ONCE = 1000
LATEST = "latest"


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
    """The keys between the first and the last of them that were never materialized."""


def select_partitions(
    definition: dg.PartitionsDefinition[str],
    materialized: Collection[str],
    declared: str | None,
    instance: dg.DagsterInstance,
) -> PartitionSelection:
    """The materialized partitions that the setting `partitions` means.

    materialized: the keys of all materialized partitions.
    declared: `latest`, a number of days such as `30d`, or None for all.
    instance: has the keys of dynamic partitions.
    Raises StepError if the definition has no order in time, and `declared` needs one.
    """
    all_keys = [*definition.get_partition_keys(dynamic_partitions_store=instance)]
    keys = [key for key in all_keys if key in materialized]
    if not keys:
        return PartitionSelection([], [])
    times = _TimesOfKeys.find(definition)
    if declared == LATEST and not isinstance(definition, dg.MultiPartitionsDefinition):
        # Static partitions, too, are declared in an order, and dynamic ones added in one.
        keys = keys[-1:]
    elif declared is not None:
        if times is None:
            raise StepError(
                f"partitions: {declared} is for partitions of time, such as days: omit it, or read"
                " all partitions and set interactions.window"
            )
        newest = max(times.end_of(key) for key in keys)
        if declared == LATEST:
            keys = [key for key in keys if times.end_of(key) == newest]
        else:
            oldest = newest - timedelta(days=int(declared.removesuffix("d")))
            keys = [key for key in keys if times.end_of(key) > oldest]
    first, last = all_keys.index(keys[0]), all_keys.index(keys[-1])
    gaps = [key for key in all_keys[first:last] if key not in materialized]
    return PartitionSelection(keys, gaps if times is not None and times.dimension is None else [])


class _TimesOfKeys(NamedTuple):
    """When the time windows of partitions end."""

    definition: dg.TimeWindowPartitionsDefinition
    dimension: str | None
    """The name of the dimension that is time, where partitions have several."""

    @classmethod
    def find(cls, definition: dg.PartitionsDefinition[str]) -> _TimesOfKeys | None:
        """The times of a definition's partitions; None if they have none."""
        if isinstance(definition, dg.TimeWindowPartitionsDefinition):
            return cls(definition, None)
        if isinstance(definition, dg.MultiPartitionsDefinition):
            for dimension in definition.partitions_defs:
                if isinstance(dimension.partitions_def, dg.TimeWindowPartitionsDefinition):
                    return cls(dimension.partitions_def, dimension.name)
        return None

    def end_of(self, key: str) -> datetime:
        """The end of the partition's time window."""
        if self.dimension is not None:
            assert isinstance(key, dg.MultiPartitionKey)
            key = key.keys_by_dimension[self.dimension]
        return self.definition.time_window_for_partition_key(key).end
