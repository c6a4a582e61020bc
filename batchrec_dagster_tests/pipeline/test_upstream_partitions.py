"""Which partitions of an upstream asset are read."""

from __future__ import annotations

import dagster as dg
import pytest

from batchrec_dagster.pipeline.upstream_partitions import select_partitions

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-03-01")

REGIONS = dg.StaticPartitionsDefinition(["de", "at", "ch"])

DAYS_OF_REGIONS = dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS})


@pytest.mark.parametrize(
    ("definition", "materialized", "keys", "gaps"),
    [
        (DAYS, ["2026-01-03", "2026-01-01"], ["2026-01-01", "2026-01-03"], ["2026-01-02"]),
        # Of a key that the definition no longer has, nothing is read.
        (DAYS, ["2025-12-31", "2026-01-02"], ["2026-01-02"], []),
        (DAYS, [], [], []),
        (REGIONS, ["ch", "de"], ["de", "ch"], []),
        (
            DAYS_OF_REGIONS,
            ["2026-01-03|at", "2026-01-01|ch"],
            ["2026-01-01|ch", "2026-01-03|at"],
            [],
        ),
    ],
)
def test_materialized_partitions_are_selected(
    instance: dg.DagsterInstance,
    definition: dg.PartitionsDefinition[str],
    materialized: list[str],
    keys: list[str],
    gaps: list[str],
) -> None:
    selection = select_partitions(definition, materialized, instance)
    assert sorted(selection.keys) == sorted(keys)
    assert selection.gaps == gaps
