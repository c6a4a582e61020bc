"""A step's lease is given up when the step ends, however it ends, though the process goes on and
keeps what the step raised."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.declare_asset import asset_of
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster.pipeline.results import to_dagster
from batchrec_dagster.pipeline.run_step import get_personalize_work
from batchrec_dagster.storage.edition import Finding, refuse_unless
from batchrec_dagster_tests.guard.builders import (
    declaration,
)

pytestmark = pytest.mark.slow

SHOP = BatchRecommendations.model_validate(declaration("shop", "ratings.csv"))


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("well", ""),
        ("raises", "the asset fails"),
        ("fails a check", "small: too large"),
    ],
)
def test_the_lease_is_given_up_however_the_step_ends(
    tmp_path: Path, instance: dg.DagsterInstance, ends: str, reason: str
) -> None:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    leases, files_during_step = tmp_path / "storage/shop/locks", []

    @asset_of(
        SHOP,
        "step",
        description="",
        kinds=set(),
        code_version="1",
        on_personalize=True,
        checks={"small": "It is small."},
    )
    def step(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        work = get_personalize_work(SHOP, context)
        with work.lock("step", context.run.run_id):
            files_during_step.extend(files(leases))
            if ends == "raises":
                raise dg.Failure("the asset fails")
        small = Finding("small", refuse_unless(ends != "fails a check"), "too large")
        return to_dagster({}, "1", [small])

    resources = deployment.resources()
    result = dg.materialize(
        SHOP.build_assets([step]), instance=instance, resources=resources, raise_on_error=False
    )
    assert [path.name for path in files_during_step] == ["step.lock"]
    assert files(leases) == []
    assert result.success == (ends == "well")
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert reason in "".join(str(failure) for failure in failures)
    # A check that fails is told of, though the step raises.
    assert len(result.get_asset_check_evaluations()) == (ends in ("well", "fails a check"))
