"""`batchrec run --trial`, `--as-of` and `--keep`, and `batchrec diff` of a trial."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.cli.test_run import build_environment
from batchrec_dagster_tests.first_run import FirstRun
from batchrec_dagster_tests.repeats import IS_LONG
from batchrec_dagster_tests.repository.typed_pages import list_code_blocks
from batchrec_dagster_tests.support import REPOSITORY, Project, killed_at

pytestmark = pytest.mark.slow
long_only = pytest.mark.skipif(not IS_LONG, reason="make test-long: each run is a process")


@pytest.fixture
def shop(project: Project, first_run: FirstRun, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose pipeline `shop` has run once."""
    first_run.copy_to(project)
    for name in build_environment():
        monkeypatch.setenv(name, build_environment()[name])
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return project


def folders(project: Project) -> list[Path]:
    return sorted((project.storage / "shop" / "trials").iterdir())


def test_a_setting_is_tried_compared_and_kept(
    shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = "recommendations.num_results=10"
    process = shop.run("batchrec", "run", "shop", "--trial", setting, "--keep")
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()
    assert any(line.startswith("recommendations") and "600 rows" in line for line in lines)
    (folder,) = folders(shop)
    assert f"shop/trials/{folder.name}: tried in" in process.stdout
    assert f"shop, trial {folder.name} compared with shop, edition 1" in lines
    assert any(line.split() == ["recommendations.num_results", "default", "10"] for line in lines)
    assert any(line.startswith("NDCG@25 ") for line in lines)
    file = next(shop.package.glob("defs/shop/defs.yaml"))
    assert yaml.safe_load(file.read_text())["attributes"]["recommendations"] == {"num_results": 10}
    assert lines[-2:] == [
        f"{file.relative_to(shop.root)} is changed:",
        f"  {setting.replace('=', ': ')}",
    ]
    monkeypatch.chdir(shop.root)
    compared = CliRunner().invoke(main, ["diff", "shop", f"shop/trials/{folder.name}"]).output
    assert (
        compared.splitlines()[:3]
        == process.stdout[process.stdout.index("shop, trial") :].splitlines()[:3]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--trial solution.recipee=x",
            "cannot be tried: solution.recipee: there is no such setting",
        ),
        ("--trial sinks.export.path=x", "sinks.export.path cannot be tried"),
        ("--as-of yesterday", "write a day such as 2026-11-24"),
        ("--as-of 2026-11-24..2026-11-01", "the range ends before it starts"),
        ("--as-of 2026-11-24 --every 3", "--every is for a range of days"),
        ("--as-of 2026-11-24 --keep", "--keep keeps settings"),
        ("--keep", "name what to try with --trial"),
    ],
)
def test_what_cannot_be_tried_is_said_at_once(
    shop: Project, arguments: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.root)
    result = CliRunner().invoke(main, ["run", "shop", *arguments.split()])
    assert result.exit_code
    assert message in result.output
    assert not (shop.storage / "shop" / "trials").exists()


@long_only
def test_a_trial_that_was_killed_goes_on(shop: Project) -> None:
    command = ("batchrec", "run", "shop", "--as-of", "2017-09-25..2017-10-15", "--every", "10")
    killed_at(shop, command, "(2 of 3)")
    (folder,) = folders(shop)
    process = shop.run(*command)
    assert process.returncode == 0, process.stderr
    assert folders(shop) == [folder]
    # The first day is not made again.
    assert "(1 of 3)" not in process.stdout
    rows = [line.split()[:2] for line in process.stdout.splitlines() if line.startswith("2017-")]
    assert [row[0] for row in rows] == ["2017-09-25", "2017-10-05", "2017-10-15"]
    ends = [datetime.fromisoformat(row[1]).replace(tzinfo=UTC) for row in rows]
    assert (ends[2] - ends[1]).days == 10


@long_only
def test_the_commands_of_the_page(shop: Project) -> None:
    blocks = list_code_blocks(REPOSITORY / "docs" / "trials.md")
    for text in [text for language, text in blocks if language == "bash"]:
        for line in text.replace("\\\n", " ").splitlines():
            typed = line.replace("other_shop", "shop")
            process = shop.run(*shlex.split(typed))
            assert process.returncode == 0, process.stderr
