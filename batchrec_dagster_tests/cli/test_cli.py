"""The `batchrec` command."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchrec_dagster.cli.dagster_home import open_dagster_instance


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
