"""A body that does not come, without the half minute that a server waits for it.

guard/contracts/test_web_servers.py asks the servers themselves.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from batchrec_dagster.web import server


def test_a_body_has_a_longest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0)

    async def receive_half() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"1234", "more_body": True}

    # A thread of its own, because a browser of other tests leaves a loop running in this one.
    with ThreadPoolExecutor() as threads:
        read = threads.submit(asyncio.run, server.read_body(receive_half))
        error = read.exception()
    assert isinstance(error, HTTPException)
    assert error.status_code == 408
