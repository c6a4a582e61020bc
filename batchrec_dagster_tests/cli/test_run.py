"""`batchrec run`, in a pipe and on a terminal, and `batchrec list`, `check` and `open`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.dagster_home import use_dagster_home
from batchrec_dagster.cli.run_stages import RunStages
from batchrec_dagster.errors import Retry
from batchrec_dagster.reporting.insight.numbers import format_duration
from batchrec_dagster.reporting.insight.stages import summarize_metadata
from batchrec_dagster.reporting.views import plain
from batchrec_dagster.reporting.views.run import align_comments, format_stage, print_failure
from batchrec_dagster.reporting.views.terminal import Terminal
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    write_ratings,
)

HOME = ".batchrec/dagster"


# In this process


@pytest.fixture
def working_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in whose folder the commands run, without DAGSTER_HOME."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.chdir(project.root)
    return project


def run_batchrec(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_dagster_s_home_is_in_batchrec_s_where_nothing_sets_it(
    working_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (working_project.root / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    use_dagster_home()
    home = working_project.root / HOME
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert home.stat().st_mode & 0o077 == 0
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    assert settings == {"telemetry": {"enabled": False}}
    (home / "dagster.yaml").write_text("{}\n")  # the user's own
    monkeypatch.delenv("DAGSTER_HOME")
    use_dagster_home()
    assert (home / "dagster.yaml").read_text() == "{}\n"


def test_a_storage_that_the_project_declares_stays(working_project: Project) -> None:
    storage_yaml = "storage: {sqlite: {base_dir: /var/lib/shop}}\n"
    (working_project.root / "dagster.yaml").write_text(storage_yaml)
    assert (use_dagster_home() / "dagster.yaml").read_text() == storage_yaml


def test_a_failure_fits_the_terminal_and_its_commands_can_be_copied(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dg.op
    def shop__personalize_dataset() -> None: ...

    @dg.op(ins={"start": dg.In(dg.Nothing)})
    def shop__solution_version() -> None:
        checks = (
            "few: 988 interactions\nnot_shrunk: interactions fell from 1,598 to 988, that is by"
        )
        raise dg.Failure(f"{checks} 38%. Publish anyway: `batchrec run shop --publish-anyway`")

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        shop__solution_version(start=shop__personalize_dataset())

    monkeypatch.setattr(plain, "format_program", lambda: ".venv/bin/batchrec")
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        run = shop_refresh.execute_in_process(instance=instance, raise_on_error=False).dagster_run
        stages = RunStages(instance, run)
        assert [stage.status for stage in stages.update()] == ["done", "failed"]
    # What an option asked for is done.
    again = stages.drop_done_options(["run", "shop", "--import", "--train"])
    assert again == ["run", "shop", "--train"]
    capsys.readouterr()
    print_failure(
        Terminal(stderr=True),
        "shop: failed after 12 s",
        stages.reasons,
        stages.describe_published(),
        "batchrec run shop --train",
        ("Its log:", "http://127.0.0.1:3000/runs/1"),
    )
    error = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().err)
    assert error.splitlines() == [
        "",
        "✗ shop: failed after 12 s",
        "  solution_version: few: 988 interactions",
        "  solution_version: not_shrunk: interactions fell from 1,598 to 988, that is by",
        "    38%. Publish anyway: `.venv/bin/batchrec run shop --publish-anyway`",
        "",
        "Fix it, then continue with:",
        "  batchrec run shop --train",
        "Its log:",
        "  http://127.0.0.1:3000/runs/1",
    ]


@pytest.fixture
def stages() -> Iterator[RunStages]:
    """The stages of a run of two lists, which has not started."""

    @dg.op
    def shop__home__recommendations() -> None: ...

    @dg.op
    def shop__newsletter__recommendations() -> None: ...

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        shop__home__recommendations()
        shop__newsletter__recommendations()

    with dg.DagsterInstance.ephemeral() as instance:
        yield RunStages(instance, instance.create_run_for_job(shop_refresh))


def test_a_reason_that_several_stages_have_is_said_once(stages: RunStages) -> None:
    names = [stage.name for stage in stages.stages.values()]
    assert names == ["home/recommendations", "newsletter/recommendations"]
    stages.errors = [*((name, "blocked.csv: no such file") for name in names), ("", "killed: why")]
    assert stages.reasons == [f"{', '.join(names)}: blocked.csv: no such file", "killed: why"]


def test_a_run_that_failed_says_what_readers_have(stages: RunStages) -> None:
    home, newsletter = stages.stages.values()
    assert stages.describe_published() == "Nothing was published: what readers have stays."
    home.status, newsletter.status = "done", "failed"
    assert stages.describe_published().startswith("Published: home. Of the others, readers keep")
    newsletter.status = "done"
    assert stages.describe_published() == "The lists are published."
    del stages.stages[next(iter(stages.stages))]
    next(iter(stages.stages.values())).name = "teardown"
    assert stages.describe_published() == ""


@pytest.mark.parametrize("width", [None, 35])
def test_an_error_fits_the_terminal(
    working_project: Project, monkeypatch: pytest.MonkeyPatch, width: int | None
) -> None:
    working_project.declare(declaration("shop", "ratings.csv"))
    monkeypatch.setattr("batchrec_dagster.reporting.views.plain.get_terminal_width", lambda: width)
    code, output = run_batchrec("list", "shopp")
    assert code == 3
    lines = output.splitlines()
    if width is None:
        assert lines == ["Error: no pipeline 'shopp'. Declared: shop"]
        return
    assert lines == ["Error: no pipeline 'shopp'.", "  Declared: shop"]


@pytest.mark.slow
def test_a_stage_that_waits_for_another_try_says_when_and_why() -> None:
    tries: list[int] = []

    @dg.op
    def sink() -> None:
        if not tries:
            tries.append(1)
            error = Retry("cannot write the table lists: connection refused")
            raise dg.RetryRequested(seconds_to_wait=0.1) from error

    @dg.job(executor_def=dg.in_process_executor)
    def shop_refresh() -> None:
        sink()

    with dg.DagsterInstance.ephemeral() as instance:
        run = shop_refresh.execute_in_process(instance=instance).dagster_run
        view = RunStages(instance, run)
        lines = []
        for stage in view.update():
            lines.append(" ".join(format_stage(stage, 0.0, 4).plain.split()))
    retry_comment = "cannot write the table lists: connection refused, trying again in 0.1 s"
    assert re.fullmatch(rf"sink retrying [\d.]+ s {retry_comment}", lines[0])
    assert re.match(r"sink done [\d.]+ s", lines[1])
    assert len(lines) == 2


def test_a_long_id_moves_no_other_comment() -> None:
    commands = {"batchrec open": "the report", f"batchrec show {'x' * 200}": "a list"}
    aligned_commands = align_comments({**commands, "batchrec ui": "this run"})
    assert aligned_commands[0] == "batchrec open  # the report"
    assert aligned_commands[1].endswith("xx  # a list")
    assert aligned_commands[2] == "batchrec ui    # this run"


@pytest.mark.slow
def test_an_asset_of_ones_own_in_defs_brings_no_notices_of_dagster(
    working_project: Project,
) -> None:
    write_ratings(working_project.root / "ratings.csv")
    working_project.declare(declaration("shop", "ratings.csv"))
    own = "import dagster as dg\n\n\n@dg.asset\ndef top10() -> None: ...\n"
    (working_project.package / "defs" / "top10.py").write_text(own)
    result = working_project.run("batchrec", "check")
    assert (result.returncode, result.stderr) == (0, "")
    assert " passed: settings, pipelines, " in result.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (7_790, "2 h 09 min")],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"outcome": "unchanged: not copied again", "dagster/row_count": 3}, "unchanged: not"),
        ({"dagster/row_count": 1_000, "rows_read": 2_000, "users": 5}, "1,000 of 2,000 rows kept"),
        ({"dagster/row_count": 60, "users": 60}, "60 users"),
        ({"dagster/row_count": 1_500, "users": 60}, "1,500 rows for 60 users"),
        ({"dagster/row_count": 1, "users": 599}, "1 row for 599 users"),
        ({"dagster/row_count": 25, "users": 1}, "25 rows for 1 user"),
        ({"dagster/row_count": 0}, "nothing yet"),
        ({"users": 60}, "60 users"),
        ({}, ""),
    ],
)
def test_counts_of_a_stage(metadata: dict[str, object], text: str) -> None:
    assert summarize_metadata(metadata).startswith(text)
    assert bool(summarize_metadata(metadata)) == bool(text)
