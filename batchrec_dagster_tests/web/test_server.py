"""A body that does not come, without the half minute that a server waits for it.

guard/contracts/test_web_servers.py asks the servers themselves.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from batchrec_dagster.web import server


def test_a_body_has_a_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0)

    async def receive_half() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"1234", "more_body": True}

    with pytest.raises(HTTPException) as error:
        asyncio.run(server.read_body(receive_half))
    assert error.value.status_code == 408
