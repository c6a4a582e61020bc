"""Which partitions of an upstream asset are read, and what Dagster recorded of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import dagster as dg

from batchrec_dagster.steps.errors import StepError

EVENTS_AT_ONCE = 1000
LATEST = "latest"


def read_materializations(
    instance: dg.DagsterInstance, key: dg.AssetKey
) -> dict[str, dg.EventLogEntry]:
    """The last materialization of each partition of an asset, by the partition's key."""
    events: dict[str, dg.EventLogEntry] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(key, EVENTS_AT_ONCE, cursor)
        for record in page.records:
            if record.partition_key is not None:
                events.setdefault(record.partition_key, record.event_log_entry)
        if not page.has_more:
            return events
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
