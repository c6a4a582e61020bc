"""What a fault of the service itself shows to the client, and to the log."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.local_personalize.operations import registry
from batchrec_dagster_tests.guard.servers.personalize import Local


def test_an_internal_error_is_not_exposed(
    local: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_secret(call: object) -> dict[str, Any]:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setitem(registry.OPERATIONS, "ListSchemas", raise_secret)
    with pytest.raises(ClientError) as error:
        local.client.list_schemas()
    response = error.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert response["Error"]["Code"] == "InternalFailure"
    assert "Traceback" not in str(response)
    assert "secret" not in str(response)
    assert "secret detail" in caplog.text  # the log has it
    assert local.client.list_recipes()["recipes"]
