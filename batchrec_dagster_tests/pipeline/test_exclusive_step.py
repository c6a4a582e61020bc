"""A step's lease is given up when the step ends, however it ends, though the process goes on and
keeps what the step raised."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.deployment import Deployment, resource_key
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    check_specs,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.storage.edition import Finding, refuse_unless
from batchrec_dagster_tests.guard.builders import (
    declaration,
)

pytestmark = pytest.mark.slow

SHOP = Pipeline.model_validate(declaration("shop", "ratings.csv"))


class Shelf(dg.IOManager):
    """Keeps values, but not what is too large; sees whose lease there is when it does."""

    def __init__(self, leases: Path) -> None:
        self.leases, self.lease_files = leases, [Path("not asked")]

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        self.lease_files = files(self.leases)
        if obj == "too large":
            raise OSError("there is no room")

    def load_input(self, context: dg.InputContext) -> object:
        raise NotImplementedError


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("well", ""),
        ("raises", "the asset fails"),
        ("fails a check", "small: too large"),
        ("too large", "there is no room"),
    ],
)
def test_the_lease_is_given_up_however_the_step_ends(
    tmp_path: Path, instance: dg.DagsterInstance, ends: str, reason: str
) -> None:
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    leases, files_during_step = tmp_path / "storage/shop/locks", []
    key = dg.AssetKey(["shop", "step"])

    @dg.asset(
        key=key,
        check_specs=check_specs(key, {"small": "It is small."}, {}),
        required_resource_keys={resource_key("personalize")},
    )
    @asset_step
    def step(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        work = get_personalize_work(SHOP, context)
        with work.lock("step", context.run.run_id):
            files_during_step.extend(files(leases))
            if ends == "raises":
                raise dg.Failure("the asset fails")
        small = Finding("small", refuse_unless(ends != "fails a check"), "too large")
        return materialization_with_checks([small], dg.MaterializeResult(value=ends))

    shelf = Shelf(leases)
    personalize = deployment.personalize_resource
    resources = {resource_key("personalize"): personalize, "io_manager": shelf}
    result = dg.materialize([step], instance=instance, resources=resources, raise_on_error=False)
    assert [path.name for path in files_during_step] == ["step.lock"]
    assert files(leases) == []
    assert result.success == (ends == "well")
    failures = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert reason in "".join(str(failure) for failure in failures)
    if ends in ("well", "too large"):
        assert shelf.lease_files == []
    # A check that fails is told of, though the step raises.
    assert len(result.get_asset_check_evaluations()) == (ends in ("well", "fails a check"))
