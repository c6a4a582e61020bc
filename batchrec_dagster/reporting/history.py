"""What Dagster remembers: the models trained before, and what the newest checks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

MOST_TRAININGS = 20
# As many materializations are looked through: most are of a model that was trained before them.
LOOKED_AT = 200


@dataclass(frozen=True)
class Training:
    """A solution version, when it was first there, and its metrics by their names in Dagster's UI:
    ndcg_at_25, precision_at_10, mrr_at_25, coverage; popularity's with popularity_ before."""

    arn: str
    made: datetime
    recipe: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """What a check found when it last ran."""

    asset: str
    check: str
    passed: bool
    found: str


def trainings(instance: dg.DagsterInstance, pipeline: str) -> list[Training]:
    """The newest solution versions, oldest first, each once."""
    key = dg.AssetKey([pipeline, "solution_version"])
    found: dict[str, Training] = {}
    # From new to old, so that what stays is when each was first there.
    for record in instance.fetch_materializations(key, limit=LOOKED_AT).records:
        if record.asset_materialization is None:
            continue
        metadata: dict[str, Any] = {
            name: value.value for name, value in record.asset_materialization.metadata.items()
        }
        arn = str(metadata.get("solution_version_arn", ""))
        numbers = {k: float(v) for k, v in metadata.items() if isinstance(v, (int, float))}
        made = datetime.fromtimestamp(record.timestamp, UTC)
        found[arn] = Training(arn, made, str(metadata.get("recipe", "")), numbers)
    return sorted(found.values(), key=lambda training: training.made)[-MOST_TRAININGS:]


def verdicts(instance: dg.DagsterInstance, checks: Sequence[dg.AssetCheckKey]) -> list[Verdict]:
    """The newest finding of each check that has run."""
    found = []
    for key in checks:
        record = instance.get_latest_asset_check_evaluation_record(key)
        evaluation = record.evaluation if record else None
        # Of a check that another run is about to do, Dagster has no more than the plan.
        if isinstance(evaluation, dg.AssetCheckEvaluation):
            asset = key.asset_key.path[-1]
            found.append(Verdict(asset, key.name, evaluation.passed, evaluation.description or ""))
    return found
