"""A filter of one's own: what the declaration says may not, or only may, be recommended."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    ITEM_COLUMNS,
    Project,
    declaration,
    refresh,
    table,
    why,
    write_items,
    write_ratings,
)
from batchrec_dagster_tests.preparation.test_items import QUICK

pytestmark = pytest.mark.slow

FILTER = 'EXCLUDE ItemID WHERE Items.GENRES IN ("War", "Drama")'


def declare_with_items(project: Project, **recommendations: Any) -> dict[str, Any]:
    return declaration(
        "shop",
        write_ratings(project.root / "ratings.csv"),
        items={
            "source": str(write_items(project.root / "items.csv")),
            "columns": ITEM_COLUMNS,
            "separator": ";",
        },
        recommendations={"num_results": 5, **recommendations},
        solution=QUICK,
    )


def accept_filter(*_: object, **__: object) -> None:
    """Takes the place of the check of a filter at load time, and finds nothing wrong."""


def test_a_filter_that_leaves_too_little_is_a_warning(
    project: Project, instance: dg.DagsterInstance
) -> None:
    include = "INCLUDE ItemID WHERE Items.YEAR < 1954"
    settings = declare_with_items(project, filter=include, exclude_seen=False)
    project.declare(settings)
    result = refresh(project, "shop", instance)
    assert result.success
    assert set(table(project, "shop").get_column("item_id")) == {"1", "2", "3"}
    (full,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "lists_full"]
    assert not full.passed
    assert full.severity is dg.AssetCheckSeverity.WARN
    assert "recommendations.filter" in (full.description or "")


def test_a_filter_that_only_personalize_refuses_is_reported_in_a_line(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster.config.fitting_blocks.find_filter_problem", accept_filter)
    project.declare(declare_with_items(project, filter="EXCLUDE ItemID WHERE Items.GENRES < 3"))
    result = refresh(project, "shop", instance)
    assert not result.success
    assert why(result).startswith("recommendations.filter: Personalize rejected the filter shop-")
    assert why(result).endswith("(InvalidInputException)")
    assert "\n" not in why(result)
