"""What Dagster's history says about models and checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from batchrec_dagster.reporting.markdown import unescape

MOST_TRAININGS = 20
# This many materializations are read. Most of them reuse a model that an earlier one trained.
MOST_MATERIALIZATIONS = 200


@dataclass(frozen=True)
class TrainingRecord:
    """A solution version."""

    arn: str
    time: datetime
    """When it first appeared."""
    recipe: str
    metrics: dict[str, float]
    """The metrics by their names in the UI, such as ndcg_at_25.

    Those of recommending the most popular items have the prefix popularity_.
    """
    interactions: Mapping[str, Any] = field(default_factory=dict)
    """The pipeline's settings of the interactions."""


@dataclass(frozen=True)
class CheckRecord:
    """The newest result of an asset check."""

    asset: str
    check: str
    passed: bool
    message: str


def read_trainings(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[TrainingRecord]:
    """The newest solution versions, each once, oldest first. `key` is that of their asset."""
    trainings_by_arn: dict[str, TrainingRecord] = {}
    # The records come newest first, so the oldest materialization of each version remains.
    for record in instance.fetch_materializations(key, limit=MOST_MATERIALIZATIONS).records:
        if record.asset_materialization is None:
            continue
        metadata: dict[str, Any] = {
            name: value.value for name, value in record.asset_materialization.metadata.items()
        }
        arn = str(metadata.get("solution_version_arn", ""))
        trainings_by_arn[arn] = TrainingRecord(
            arn=arn,
            time=datetime.fromtimestamp(record.timestamp, UTC),
            recipe=str(metadata.get("recipe", "")),
            metrics={
                name: float(value)
                for name, value in metadata.items()
                if isinstance(value, (int, float))
            },
            interactions=metadata.get("interactions", {}),
        )
    trainings = sorted(trainings_by_arn.values(), key=lambda training: training.time)
    return trainings[-MOST_TRAININGS:]


def read_check_records(
    instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]
) -> list[CheckRecord]:
    """The newest result of each check that has run."""
    records = []
    for key in checks:
        record = instance.get_latest_asset_check_evaluation_record(key)
        evaluation = record.evaluation if record else None
        # A check that is planned in a run under way has no evaluation yet.
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            records.append(
                CheckRecord(
                    asset=key.asset_key.path[-1],
                    check=key.name,
                    passed=evaluation.passed,
                    message=unescape(evaluation.description or ""),
                )
            )
    return records
