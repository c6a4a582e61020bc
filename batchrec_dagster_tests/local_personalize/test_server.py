"""Tests of the local Personalize over HTTP: requests that no SDK sends, and the log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchrec_dagster_tests.guard.servers.guarded import serve_personalize
from batchrec_dagster_tests.guard.servers.processes import free_ports

pytestmark = pytest.mark.slow


def test_health_and_invalid_requests(tmp_path: Path) -> None:
    with serve_personalize(tmp_path) as server:
        assert server.ask("GET", "/health") == (200, b'{"status":"ok"}')
        assert server.ask("GET", "/")[0] == 405
        assert server.ask("POST", "/other")[0] == 404
        status, body = server.ask("POST", "/", b"{}")
    assert status == 400
    assert json.loads(body)["__type"] == "UnknownOperationException"


def test_a_public_address_is_logged_as_a_warning(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "batchrec_dagster.local_personalize", "--host", "0.0.0.0"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--home", str(tmp_path / "home")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        log_text = ""
        while "Uvicorn running" not in log_text:
            line = process.stderr.readline()
            assert line, log_text
            log_text += line
    finally:
        process.kill()
        process.wait()
    assert re.search(r"WARNING listening on 0\.0\.0\.0: .* no access key is set", log_text)
