"""Fixtures that run the command `check` in a project on a healthy machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project

FINDING = re.compile(r"^[✗!] (warning|FAILED|unknown) +(\S+(?: \S+)*?)  +(.*)$", re.MULTILINE)
# The last line has the names of the passed checks.
PASSED = re.compile(r"^✓ ok +\d+ passed: (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a healthy machine's Dagster home, made once: its databases take half a second."""
    folder = tmp_path_factory.mktemp("dagster")
    folder.chmod(0o700)
    (folder / "dagster.yaml").write_text("run_monitoring: {enabled: true}\n")
    return folder


@pytest.fixture
def home(
    tmp_path: Path, project: Project, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """Return a project on a healthy machine."""
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    return project


def check(*options: str, **environment: str) -> dict[str, tuple[str, str]]:
    """Return the status and the text, with its fix, of each finding of the command, by name."""
    result = CliRunner().invoke(main, ["check", *options], env=environment)
    assert "Traceback" not in result.output
    passed = PASSED.search(result.output)
    names = passed[1].split(", ") if passed else []
    findings = dict.fromkeys(names, ("ok", ""))
    problems = result.output[: passed.start()] if passed else result.output
    matches = [*FINDING.finditer(problems)]
    ends = [match.start() for match in matches[1:]] + [len(problems)]
    for match, end in zip(matches, ends, strict=False):
        findings[match[2]] = (match[1], " ".join(problems[match.start(3) : end].split()))
    assert result.exit_code == any(status == "FAILED" for status, _ in findings.values())
    return findings


def declare(project: Project, **attributes: Any) -> None:
    project.declare({"name": "shop", **attributes})
