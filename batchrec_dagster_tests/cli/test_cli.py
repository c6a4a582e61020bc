"""The `batchrec` command."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.dagster_home import open_dagster_instance
from batchrec_dagster_tests.guard.builders import (
    declaration,
    module_project,
    refresh,
    write_ratings,
)


def show(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["show", *arguments])
    return result.exit_code, result.output


@pytest.mark.slow
def test_several_first_commands_make_the_databases_of_a_new_home_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    (tmp_path / "dagster.yaml").touch()
    start = threading.Barrier(3)

    def count_runs() -> int:
        start.wait()
        with open_dagster_instance() as instance:
            assert instance is not None
            return instance.get_runs_count()

    with ThreadPoolExecutor(3) as pool:
        assert [future.result() for future in [pool.submit(count_runs) for _ in range(3)]] == [
            0,
            0,
            0,
        ]


@pytest.mark.slow
def test_show_tells_what_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    project = module_project(tmp_path)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    monkeypatch.chdir(project.root)
    assert show()[0] == 3
    project.declare(declaration("shop", write_ratings(tmp_path / "ratings.csv")))
    with dg.DagsterInstance.get() as instance:
        assert refresh(project, "shop", instance, report=True).success
    code, output = show()
    assert code == 0
    table = project.storage / "shop/curated/recommendations/recommendations.parquet"
    assert output.startswith("shop\n  ratings       1,800 rows from ")
    assert "lists         1,500 recommendations for 60 users" in output
    assert "for the most popular items" in output
    assert f"table         {table}\n" in output
    assert f"report        {project.storage}/shop/curated/report/index.html\n" in output
    assert show("--pipeline", "shop") == (code, output)
    assert show("--pipeline", "club") == (
        3,
        "Error: no recommendations of 'club' yet. Published pipelines: shop\n",
    )
    code, output = show("7")
    assert code == 0
    assert output.startswith("User 7 in shop\n")


@pytest.mark.parametrize("name", sorted(main.commands))
def test_the_help_of_every_command_shows_examples(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Examples:\n    batchrec {name}" in result.output.replace('eval "$(', "")


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
