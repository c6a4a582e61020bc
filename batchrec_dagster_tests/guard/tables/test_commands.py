"""Tests of typed commands: the exit code and the names in the output."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import Project, declaration, module_project
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.servers.processes import free_ports

pytestmark = pytest.mark.slow

OK, FAILED, WRONG_USAGE, NOT_FOUND = 0, 1, 2, 3
# Commands in a project with the pipelines `shop`, which has run once, and `club`, which never ran.
TYPED = [
    ("run", WRONG_USAGE, ["club", "shop"]),
    ("run shopp", NOT_FOUND, ["'shopp'", "club, shop"]),
    ("run shop/newsletter", NOT_FOUND, ["is a list", "name shop"]),
    ("run shop -c missing.yaml", WRONG_USAGE, ["missing.yaml"]),
    ("run shop -c tab.yaml", FAILED, ["tab.yaml, line 2", "YAML"]),
    ("run shop -c latin.yaml", FAILED, ["latin.yaml"]),
    ("run shop -c control.yaml", FAILED, ["control.yaml", "YAML"]),
    ("run shop -c empty.yaml", FAILED, ["empty.yaml", "ops"]),
    ("show", OK, ["1,500", "60 users", "edition 1", "recommendations.parquet", "NDCG@25"]),
    ("show --pipeline shop", OK, ["edition 1"]),
    ("show 7", OK, ["User 7", "shop"]),
    ("show nobody", NOT_FOUND, ["nobody", "shop"]),
    ("show --item 5", OK, ["Item 5", "of 60 lists"]),
    ("show --item nothing", NOT_FOUND, ["nothing"]),
    ("show 7 --pipeline club", NOT_FOUND, ["club", "shop"]),
    ("show --pipeline shop/newslettr", NOT_FOUND, ["no pipeline 'shop/newslettr'", "club, shop"]),
    ("show 7 --item 5", WRONG_USAGE, ["--item"]),
    ("show 7 8", WRONG_USAGE, ["8"]),
    ("show 7 --edition 1", OK, ["edition 1"]),
    ("show 7 --edition 9", NOT_FOUND, ["edition 9", "1 to 1"]),
    ("show --edition 1", WRONG_USAGE, ["--edition"]),
    ("list", OK, ["club", "never", "shop", "60"]),
    ("list shop --editions", OK, ["published, live"]),
    ("list nobody", NOT_FOUND, ["'nobody'", "club, shop"]),
    ("list nobody --editions", NOT_FOUND, ["'nobody'", "club, shop"]),
    ("open", OK, ["shop/curated/report/index.html"]),
    ("open --pipeline club", NOT_FOUND, ["run club"]),
    ("open --pipeline clubb", NOT_FOUND, ["'clubb'", "club, shop"]),
    ("diff", NOT_FOUND, ["edition 1"]),
    ("diff --pipeline club", NOT_FOUND, ["club"]),
    ("rollback shop", NOT_FOUND, ["earlier edition"]),
    ("rollback shop --to 9", NOT_FOUND, ["'9'"]),
    ("rollback club", NOT_FOUND, ["club"]),
    ("teardown shopp", NOT_FOUND, ["shopp"]),
    ("forget", WRONG_USAGE, ["USER", "--file"]),
    ("forget 7 --pipeline x", NOT_FOUND, ["'x'", "club, shop"]),
    ("new shop --ratings ratings.csv", FAILED, ["defs/shop/defs.yaml"]),
    ("new 2shop --ratings ratings.csv", WRONG_USAGE, ["'2shop'"]),
    ("new toys --ratings gone.csv", FAILED, ["gone.csv"]),
    ("init", WRONG_USAGE, ["DIR"]),
    ("init .", FAILED, ["not empty"]),
    ("nonsense", WRONG_USAGE, ["nonsense"]),
    ("ui --port x", WRONG_USAGE, ["--port"]),
    ("local-personalize --bucket x", WRONG_USAGE, ["BUCKET=FOLDER"]),
]


@pytest.fixture(scope="module")
def desk(first_run: FirstRun, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the project of TYPED, which tests only read."""
    project = module_project(tmp_path_factory.mktemp("desk"))
    first_run.copy_to(project)
    project.declare(declaration("club", "ratings.csv"))
    files = {
        "tab.yaml": b"ops:\n\tx: 1\n",
        "latin.yaml": b"ops: caf\xe9\n",
        "control.yaml": b"ops: \x01\n",
        "empty.yaml": b"# later\n",
    }
    for name, content in files.items():
        (project.root / name).write_bytes(content)
    return project


@pytest.fixture(autouse=True)
def at_the_desk(desk: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in desk.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BROWSER", "true")
    monkeypatch.chdir(desk.root)


def type_command(command: str) -> Result:
    return CliRunner().invoke(main, shlex.split(command))


def show(command: str) -> dict[str, Any]:
    result = type_command(f"show {command} --json")
    assert result.exit_code == OK, result.output
    (pipeline,) = json.loads(result.stdout)["pipelines"]
    assert isinstance(pipeline, dict)
    return pipeline


@pytest.mark.parametrize(
    ("command", "exit_code", "parts"),
    [pytest.param(*typed, id=typed[0].replace(" ", "_")) for typed in TYPED],
)
def test_a_command_ends_with_its_exit_code_and_names_what_it_is_about(
    command: str, exit_code: int, parts: list[str]
) -> None:
    result = type_command(command)
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    output = " ".join(result.output.split())
    for part in parts:
        assert part in output
    if exit_code in (FAILED, NOT_FOUND):
        assert "Error: " in output


def test_all_commands_are_in_the_table_or_are_told_elsewhere() -> None:
    # `check` has a table of its own.
    typed = {command.split()[0] for command, _, _ in TYPED}
    assert set(main.commands) - typed == {"check"}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_a_command_shows_examples(name: str) -> None:
    result = type_command(f"{name} --help")
    assert result.exit_code == OK
    assert f"Examples:\n    batchrec {name}" in result.output


def test_help_waits_for_no_heavy_import() -> None:
    script = (
        "import sys; from batchrec_dagster.cli import main\n"
        "for name in ['', *main.commands]:\n"
        "    main([*name.split(), '--help'], standalone_mode=False)\n"
        "print('imported:', *sys.modules)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    modules = output.partition("imported: ")[2].split()
    assert "click" in modules
    assert not {"dagster", "polars", "pyarrow", "pandas", "boto3", "rich"} & {*modules}


# Output


def test_a_user_is_shown_with_history_and_the_list_that_is_published(desk: Project) -> None:
    shown = show("7")
    lists = pl.read_parquet(
        desk.storage / "shop/curated/recommendations/recommendations.parquet"
    ).filter(user_id="7")
    listed = [entry["item"] for entry in shown["recommendations"]]
    assert listed == lists.sort("rank").get_column("item_id").to_list()
    rows = pl.read_csv(desk.root / "ratings.csv").filter(
        pl.col("userId") == 7, pl.col("rating") >= 3.5
    )
    newest_first = rows.sort("timestamp", descending=True)
    assert shown["interactions"] == rows.height
    had = [entry["item"] for entry in shown["history"]]
    assert had == [f"{item}" for item in newest_first["movieId"].head(len(had))]
    # Each failed run has a reason in the history.
    reasons = {entry["because"] for entry in shown["recommendations"]} - {None}
    assert reasons
    assert reasons <= {f"{item}" for item in rows["movieId"]}


def test_an_item_is_shown_with_who_gets_it(desk: Project) -> None:
    lists = pl.read_parquet(
        desk.storage / "shop/curated/recommendations/recommendations.parquet"
    ).filter(item_id="5")
    shown = show("--item 5")
    assert shown["in_lists"] == lists.height
    first = {(entry["user_id"], entry["rank"]) for entry in shown["first_users"]}
    assert first <= set(lists.select("user_id", "rank").iter_rows())


def test_an_edition_is_shown_as_people_got_it() -> None:
    assert show("7 --edition 1")["recommendations"] == show("7")["recommendations"]


def test_published_lists_of_others_in_the_storage_are_named(desk: Project) -> None:
    source, other = desk.storage / "shop", desk.storage / "old"
    (other / "curated").mkdir(parents=True)
    (other / "curated/recommendations").symlink_to(source / "curated/recommendations")
    try:
        assert "old" in type_command("list").output
    finally:
        (other / "curated/recommendations").unlink()
        (other / "curated").rmdir()
        other.rmdir()


def test_an_ascii_pipe_is_no_error() -> None:
    result = CliRunner(charset="ascii").invoke(main, ["show", "Kraków 🎬"])
    assert (result.exit_code, result.exc_info[0] if result.exc_info else None) == (
        NOT_FOUND,
        SystemExit,
    )


# Files and databases that a command needs


def test_a_pipeline_that_does_not_load_is_told_with_its_line_by_every_command(
    desk: Project,
) -> None:
    file = desk.declare(declaration("odd", "ratings.csv", no_such_setting=1))
    try:
        stopped = [type_command(command) for command in ("check --offline", "run odd")]
        shown = [type_command(command) for command in ("show", "list")]
    finally:
        file.unlink()
        file.parent.rmdir()
    for result in [*stopped, *shown]:
        output = " ".join(result.output.split())
        assert re.search(r"odd/defs\.yaml, line \d+: no_such_setting", output), output
        assert "Traceback" not in output
    assert [result.exit_code for result in stopped] == [FAILED, FAILED]
    # Published lists can still be shown.
    assert [result.exit_code for result in shown] == [OK, OK]
    assert all("shop" in result.stdout for result in shown)


def test_a_project_that_does_not_load_is_not_called_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("odd", "ratings.csv", no_such_setting=1))
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_STORAGE", str(project.storage))
    for command in ("list", "open"):
        result = type_command(command)
        assert result.exit_code == FAILED, result.output
        assert "no_such_setting" in result.output
        assert "No pipeline is declared" not in result.output


def test_settings_come_from_dot_env(desk: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHREC_STORAGE", "overwritten")
    file = desk.root / ".env"
    try:
        file.write_text(f"BATCHREC_STORAGE={desk.storage}\n")
        assert type_command("show 7").exit_code == OK
        file.write_text("BATCHREC_STORAGE=ftp://x\n")
        result = type_command("show 7")
    finally:
        file.unlink()
    assert result.exit_code == FAILED
    assert "BATCHREC_STORAGE" in result.output


def test_a_subfolder_is_in_the_project(desk: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHREC_STORAGE", "overwritten")
    monkeypatch.setenv("DAGSTER_HOME", "")
    folder, file = desk.root / "data/orders", desk.root / ".env"
    folder.mkdir(parents=True)
    try:
        file.write_text(f"BATCHREC_STORAGE={desk.storage}\n")
        for command in ("show 7", "list shop", "open", "check --offline"):
            monkeypatch.chdir(folder)
            result = type_command(command)
            assert result.exit_code == OK, result.output
            assert result.stderr.startswith(f"In {desk.root}:\n")
        monkeypatch.chdir(folder)
        (folder / "empty.yaml").write_text("# later\n")
        result = type_command("run shop -c empty.yaml")
        assert "data/orders/empty.yaml" in result.output
        (folder / "empty.yaml").unlink()
        # The command creates nothing in the current folder.
        assert [*folder.iterdir()] == []
    finally:
        file.unlink()
        shutil.rmtree(desk.root / "data")


@pytest.mark.parametrize(
    "command", ["list", "run", "run shop", "check", "new toys --ratings x.csv", "forget 7"]
)
def test_commands_outside_a_project_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = type_command(command)
    assert result.exit_code == FAILED
    assert "there is no project in" in result.stderr
    assert "batchrec init DIR" in result.stderr


def test_a_damaged_table_is_named(desk: Project, tmp_path: Path) -> None:
    table = tmp_path / "shop/curated/recommendations/recommendations.parquet"
    table.parent.mkdir(parents=True)
    table.write_bytes(b"PAR1")
    result = CliRunner().invoke(main, ["show", "7"], env={"BATCHREC_STORAGE": str(tmp_path)})
    assert result.exit_code == FAILED
    assert "recommendations.parquet" in result.output


def test_a_history_that_does_not_open_is_one_line_and_lists_are_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder is in the place of a database.
    (tmp_path / "dagster/schedules/schedules.db").mkdir(parents=True)
    (tmp_path / "dagster/dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    shown, listed = type_command("show"), type_command("list")
    assert (shown.exit_code, listed.exit_code) == (OK, FAILED)
    assert "edition 1" in shown.stdout
    for result in (shown, listed):
        (line,) = [line for line in result.stderr.splitlines() if "history" in line]
        assert str(tmp_path / "dagster") in line


@pytest.mark.parametrize("command", ["list", "run shop"])
def test_a_damaged_history_is_one_line(desk: Project, tmp_path: Path, command: str) -> None:
    (tmp_path / "dagster.yaml").touch()
    env = {"DAGSTER_HOME": str(tmp_path)}
    assert CliRunner().invoke(main, ["list"], env=env).exit_code == OK
    databases = [*tmp_path.rglob("*.db")]
    assert databases
    for database in databases:
        database.write_bytes(b"wild bytes " * 1000)
    result = CliRunner().invoke(main, command.split(), env=env)
    assert result.exit_code == FAILED
    assert "Traceback" not in result.output
    assert "damaged" in result.output.splitlines()[-1]


def test_the_page_is_opened_only_if_it_runs() -> None:
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request, daemon=True)
    thread.start()
    result = type_command(f"open ui --port {server.server_port}")
    server.server_close()
    assert (result.exit_code, result.output) == (OK, f"http://127.0.0.1:{server.server_port}\n")
    result = type_command(f"open ui --port {free_ports(1)[0]}")
    assert result.exit_code == FAILED
    assert "batchrec ui" in result.output
