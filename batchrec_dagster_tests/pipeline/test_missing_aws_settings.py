"""What AWS's SDK needs and does not find: the message names the variable to set."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.deployment import Deployment

PERSONALIZE = {"BATCHREC_PERSONALIZE": "http://127.0.0.1:9"}
REGION = {"AWS_REGION": "us-east-1"}

pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no AWS region is set: set AWS_REGION"),
        (REGION, "Unable to locate credentials: set AWS_PROFILE, or both AWS_ACCESS_KEY_ID"),
        ({**REGION, "AWS_ACCESS_KEY_ID": "me"}, "missing: AWS_SECRET_ACCESS_KEY: set"),
        (
            {**REGION, "AWS_PROFILE": "shop"},
            r"profile \(shop\) could not be found: set AWS_PROFILE",
        ),
    ],
)
def test_what_is_missing_is_named(
    environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = {"BATCHREC_HOME": str(tmp_path), **PERSONALIZE, **environment}
    personalize = Deployment.from_environment(settings).personalize_resource
    with pytest.raises(UserError, match=f"cannot use personalize: .*{message}"):
        personalize.client.list_schemas()
