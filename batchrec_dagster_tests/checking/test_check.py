"""`batchrec check` on this machine, with a real S3 server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from batchrec_dagster.checking import folders
from batchrec_dagster.checking.deployment import check_deployment, check_settings
from batchrec_dagster.checking.findings import Finding
from batchrec_dagster.checking.pipelines import check_filters
from batchrec_dagster.checking.storage import check_clock
from batchrec_dagster.cli import main
from batchrec_dagster.cli.check import _format_finding
from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.builders import declaration, module_project, write_ratings
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, STRANGER, S3Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]


@pytest.fixture
def personalize(tmp_path: Path) -> Iterator[StartedPersonalize]:
    personalize_service = StartedPersonalize(tmp_path / "personalize")
    yield personalize_service
    personalize_service.close()


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The settings of a healthy machine."""
    dagster = tmp_path / "dagster"
    dagster.mkdir()
    (dagster / "dagster.yaml").touch()
    return {"BATCHREC_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(dagster)}


def index_by_check(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def check_by_name(environment: dict[str, str]) -> dict[str, Finding]:
    """The findings about the deployment of this environment."""
    return index_by_check(check_deployment(Deployment.from_environment(environment)))


def test_a_healthy_machine_passes(home: dict[str, str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check"], env=home)
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    assert "settings" in result.output
    checks = {line[9:32].strip() for line in result.output.splitlines()}
    assert checks >= {
        *("settings", "dagster home", "dagster storage", "home", "disk", "storage folder"),
        *("storage write", "storage lease", "storage list", "storage read", "storage delete"),
        "pipelines",
    }
    assert "dagster storage        0 runs in SqliteRunStorage" in result.output
    assert "run_monitoring: {enabled: true}" in result.output
    assert list((tmp_path / "home/storage").iterdir()) == []


def test_the_home_that_batchrec_made_opens(tmp_path: Path) -> None:
    env = {"BATCHREC_HOME": str(tmp_path / "home")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHREC_HOME", env["BATCHREC_HOME"])
        patch.setenv("DAGSTER_HOME", "")
        home = use_dagster_home()
    assert (home / "dagster.yaml").is_file()
    result = CliRunner().invoke(main, ["check"], env=env)
    assert "dagster storage        0 runs in" in result.output
    assert "run monitoring" not in result.output
    assert result.exit_code == 0, result.output


def test_a_long_name_does_not_break_the_columns() -> None:
    short = Finding("disk", "ok", "40 GB free")
    long = Finding("shop/newsletter rules.block", "warning", "10 of 10 used", "ask AWS")
    lines = [line for finding in (short, long) for line in _format_finding(finding)]
    assert lines == [
        "ok       disk                   40 GB free",
        "warning  shop/newsletter rules.block",
        "                                10 of 10 used",
        "                                -> ask AWS",
    ]


def test_settings_are_read_from_dot_env(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BATCHREC_PERSONALIZE=moto\n")
    result = CliRunner().invoke(main, ["check"], env=home)
    assert result.exit_code == 1
    assert "BATCHREC_PERSONALIZE is 'moto'" in result.output


def test_invalid_declarations_fail(home: dict[str, str], tmp_path: Path) -> None:
    project = module_project(tmp_path)
    write_ratings(tmp_path / "ratings.csv")
    project.declare(declaration("shop", "ratings.csv"))
    result = CliRunner().invoke(main, ["check"], env=home)
    assert result.exit_code == 0, result.output
    found = "ratings.csv: 1 file, with the declared columns"
    assert f"ok       shop ratings           {found}" in result.output
    file = project.declare(declaration("shop", "ratings.csv", solution={"recipe": "aws-x"}))
    result = CliRunner().invoke(main, ["check"], env=home)
    assert result.exit_code == 1
    assert f"FAILED   pipelines              {file}, line 14: solution.recipe: " in result.output


def test_a_misspelt_setting_fails(home: dict[str, str]) -> None:
    findings = index_by_check(check_settings({**home, "BATCHREC_STORGE": "s3://bucket/x"}))
    assert "BATCHREC_STORGE" in findings["settings"].message
    assert "BATCHREC_STORAGE" in findings["settings"].fix


def test_a_missing_dagster_home_fails(home: dict[str, str], tmp_path: Path) -> None:
    findings = check_by_name({**home, "DAGSTER_HOME": ""})
    assert findings["dagster home"].status == "warning"
    assert f"{tmp_path / 'home' / 'dagster'}" in findings["dagster home"].fix
    findings = check_by_name({**home, "DAGSTER_HOME": str(tmp_path / "no")})
    assert "is not writable: No such file" in findings["dagster home"].message


def test_a_home_that_everybody_can_read_is_a_warning(home: dict[str, str]) -> None:
    dagster = Path(home["DAGSTER_HOME"])
    for mode, status in ((0o755, "warning"), (0o770, "ok"), (0o700, "ok")):
        dagster.chmod(mode)
        findings = check_by_name(home)
        assert (findings["dagster home"].status, findings["home"].status) == (status, "ok")
        assert findings["dagster home"].fix.startswith(f"chmod 700 {dagster}" if mode & 7 else "")
    assert Path(home["BATCHREC_HOME"]).stat().st_mode & 0o777 == 0o700


@pytest.mark.attack
def test_a_storage_that_everybody_can_read_is_a_warning(
    home: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "srv"
    settings = {**home, "BATCHREC_STORAGE": str(folder)}
    assert check_by_name(settings)["storage folder"].status == "ok"
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode, status in ((0o755, "warning"), (0o771, "warning"), (0o770, "ok"), (0o750, "ok")):
        folder.chmod(mode)
        finding = check_by_name(settings)["storage folder"]
        assert finding.status == status
        assert finding.fix.startswith(f"chmod 700 {folder}" if status == "warning" else "")
        assert folder.stat().st_mode & 0o777 == mode
    # Nobody can reach an open folder inside a home that is closed.
    storage_folder = Path(home["BATCHREC_HOME"]) / "storage"
    storage_folder.mkdir(mode=0o755, exist_ok=True)
    storage_folder.chmod(0o755)
    assert check_by_name(home)["storage folder"].status == "ok"
    storage_folder.parent.chmod(0o755)
    assert check_by_name(home)["storage folder"].status == "warning"


@pytest.mark.attack
@pytest.mark.parametrize(
    "url", ["postgresql://u:owner-secret:x@h:port/d", "postgresql://u:x@h:owner-secret/d", "secret"]
)
def test_the_url_of_dagster_s_database_is_not_repeated(
    home: dict[str, str], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    pytest.importorskip("dagster_postgres")
    settings = "storage: {postgres: {postgres_url: {env: DAGSTER_POSTGRES}}}\n"
    (Path(home["DAGSTER_HOME"]) / "dagster.yaml").write_text(settings)
    monkeypatch.setenv("DAGSTER_POSTGRES", url)
    finding = check_by_name(home)["dagster storage"]
    assert finding.status == "failed"
    assert "secret" not in finding.message
    assert "cannot be read" in finding.message
    result = CliRunner().invoke(main, ["list"], env=home)
    assert result.exit_code == 1
    assert "secret" not in result.output
    assert "cannot open Dagster's history" in result.output


def test_a_dagster_storage_that_does_not_open_fails(home: dict[str, str]) -> None:
    (Path(home["DAGSTER_HOME"]) / "dagster.yaml").write_text("storage: {tape: {}}\n")
    findings = check_by_name(home)
    assert findings["dagster storage"].status == "failed"
    assert "dagster.yaml" in findings["dagster storage"].fix


def test_a_usable_bucket_passes(
    home: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = check_on_s3(home, s3, OWNER, s3.create_bucket(), monkeypatch)
    assert {finding.status for finding in findings.values()} <= {"ok", "warning"}
    assert findings["clock"].status == "ok"
    assert findings.keys() >= {"bucket", "storage write", "storage delete"}


@pytest.mark.parametrize(
    ("keys", "check", "sentence"),
    [
        (READER, "storage write", "allow these credentials s3:PutObject on arn:aws:s3:::"),
        (STRANGER, "storage write", "AWS does not know the credentials"),
    ],
)
def test_a_bucket_that_refuses_is_named_with_its_fix(
    home: dict[str, str],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    keys: Any,
    check: str,
    sentence: str,
) -> None:
    findings = check_on_s3(home, s3, keys, s3.create_bucket(), monkeypatch)
    assert findings[check].status == "failed"
    assert sentence in findings[check].fix
    assert "storage delete" not in findings


def test_a_missing_or_unreachable_bucket_fails(
    home: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = check_on_s3(home, s3, OWNER, "no-such-bucket", monkeypatch)
    assert "no-such-bucket" in findings["bucket"].message
    assert "storage write" not in findings
    nobody = replace(s3, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    findings = check_on_s3(home, nobody, OWNER, "bucket", monkeypatch)
    assert "cannot reach s3://bucket" in findings["bucket"].message


def check_on_s3(
    home: dict[str, str], s3: S3Server, keys: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Finding]:
    environment = {**home, **s3.environment(keys), "BATCHREC_STORAGE": f"s3://{bucket}/x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return check_by_name(environment)


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


def test_a_personalize_at_a_url_is_checked(
    home: dict[str, str], personalize: StartedPersonalize, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in personalize.environment.items():
        monkeypatch.setenv(name, value)
    url = personalize.endpoint_url
    assert check_by_name({**home, "BATCHREC_PERSONALIZE": url})["personalize"].status == "ok"
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    finding = check_by_name({**home, "BATCHREC_PERSONALIZE": nobody})["personalize"]
    assert finding.status == "failed"
    assert "batchrec local-personalize" in finding.fix


def test_a_filter_that_lets_unknown_items_through_is_named() -> None:
    items = {"source": "items.csv", "columns": {"item": "id", "categories": {"STATUS": "status"}}}
    findings: list[Finding] = []
    for name, condition in (("open", "EXCLUDE ItemID WHERE Items.STATUS != 'on'"), ("shut", None)):
        lists = {"filter": condition} if condition else {}
        attributes = declaration(name, "ratings.csv", items=items, recommendations=lists)
        findings += check_filters(Pipeline.model_validate(attributes))
    assert findings == [
        Finding(
            "filter",
            "warning",
            "open: recommendations.filter: EXCLUDE … Items.STATUS != lets items through that the"
            " items file does not have",
            "write INCLUDE ItemID WHERE Items.STATUS = …",
        )
    ]


def test_a_full_disk_fails(home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        folders, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=10**8))
    )
    finding = check_by_name(home)["disk"]
    assert finding.status == "failed"
    assert "0.1 GB free" in finding.message


def test_offline_only_the_settings_and_the_yaml_are_judged(
    home: dict[str, str], tmp_path: Path
) -> None:
    module_project(tmp_path).declare(declaration("shop", "gone.csv"))
    result = CliRunner().invoke(main, ["check", "--offline"], env=home)
    assert result.exit_code == 0, result.output
    assert [line.split()[1] for line in result.output.splitlines()] == ["settings", "pipelines"]
    result = CliRunner().invoke(main, ["check"], env=home)
    assert result.exit_code == 1
    assert "FAILED   shop ratings           gone.csv: there is no such file" in result.output
