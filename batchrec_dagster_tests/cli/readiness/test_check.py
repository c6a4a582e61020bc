"""`batchrec check` on this machine, with a real S3 server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.cli.readiness.storage import check_clock
from batchrec_dagster.reporting.insight.readiness import failed, ok, warning
from batchrec_dagster.reporting.views.check import print_readiness
from batchrec_dagster.reporting.views.terminal import Terminal
from batchrec_dagster_tests.guard.builders import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]


def test_the_home_that_batchrec_made_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    env = {"BATCHREC_HOME": str(tmp_path / "home")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHREC_HOME", env["BATCHREC_HOME"])
        patch.setenv("DAGSTER_HOME", "")
        home = use_dagster_home()
    assert (home / "dagster.yaml").is_file()
    result = CliRunner().invoke(main, ["check"], env=env)
    assert "dagster storage" in result.output
    assert "run monitoring" not in result.output
    assert result.exit_code == 0, result.output


def test_what_needs_somebody_comes_first_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    results = [
        ok("disk", "40 GB free"),
        warning("shop/newsletter rules.block", "10 of 10 used", "ask AWS"),
        failed("settings", "BATCHREC_STORAGE is 'x'", "correct it"),
        ok("storage write", "s3://bucket"),
    ]
    print_readiness(Terminal(), results)
    assert capsys.readouterr().out.splitlines() == [
        "✗ FAILED   settings                     BATCHREC_STORAGE is 'x'",
        "                                        -> correct it",
        "! warning  shop/newsletter rules.block  10 of 10 used",
        "                                        -> ask AWS",
        "✓ ok       2 passed: disk, storage write",
    ]


@pytest.mark.parametrize(
    ("offset_seconds", "status", "sentence"),
    [(0, "ok", "agrees"), (-40, "warning", "40 s behind"), (900, "failed", "900 s ahead")],
)
def test_a_wrong_clock_is_reported(offset_seconds: int, status: str, sentence: str) -> None:
    server_time = datetime(2026, 1, 1, tzinfo=UTC)
    finding = check_clock(
        format_datetime(server_time), server_time + timedelta(seconds=offset_seconds)
    )
    assert finding.status == status
    assert sentence in finding.message
    assert check_clock(None, server_time).status == "unknown"
