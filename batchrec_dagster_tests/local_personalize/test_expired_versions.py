"""Tests of solution versions that a tag makes give up their model."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG
from batchrec_dagster_tests.guard.servers.personalize import Local
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows

pytestmark = pytest.mark.slow


@pytest.fixture
def versions(local: Local) -> list[str]:
    """Return the ARNs of two versions of a solution, the older version first."""
    group, _ = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, "aws-user-personalization")
    return [local.wait_until_active(local.create_version(solution)) for _ in range(2)]


def expire(local: Local, version: str) -> None:
    local.client.tag_resource(
        resourceArn=version, tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}]
    )


def list_models(local: Local) -> list[Path]:
    return list((local.root / "home" / "models").iterdir())


def test_the_tag_deletes_the_model_and_keeps_the_metrics(local: Local, versions: list[str]) -> None:
    older, newer = versions
    metrics = local.client.get_solution_metrics(solutionVersionArn=older)["metrics"]
    expire(local, older)
    expire(local, older)
    (model,) = list_models(local)
    assert newer.rpartition("/")[2] in model.name
    assert local.describe(older)["status"] == "ACTIVE"
    assert local.client.get_solution_metrics(solutionVersionArn=older)["metrics"] == metrics
    # Removing the tag does not bring the model back.
    local.client.untag_resource(resourceArn=older, tagKeys=[MODEL_TAG])
    with pytest.raises(ClientError, match=f"The model of {older} was deleted, .*next run") as it:
        local.recommend(older, ["u1"])
    assert it.value.response["Error"]["Code"] == "InvalidInputException"
    assert local.recommend(newer, ["u1"], "other")["u1"]


def test_another_tag_or_value_deletes_nothing(local: Local, versions: list[str]) -> None:
    for key, value in ((MODEL_TAG, "old"), ("expired", EXPIRED)):
        local.client.tag_resource(
            resourceArn=versions[0], tags=[{"tagKey": key, "tagValue": value}]
        )
    assert len(list_models(local)) == 2


def test_files_of_a_killed_process_are_deleted_when_the_home_opens(
    local: Local, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = "batchrec_dagster.local_personalize.api.service.remove_path"
    monkeypatch.setattr(removal, lambda _: None)
    expire(local, versions[0])
    assert len(list_models(local)) == 2
    other = Local(local.root)
    assert len(list_models(other)) == 1
