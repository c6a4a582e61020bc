"""Files of a source that are read where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.storage.connection import Storage


def test_a_file_that_is_written_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "users.csv"
    path.write_text("user\n1\n")
    storage = Storage(str(tmp_path / "storage"))
    with open_source(parse_source(str(path)), storage, tmp_path) as (file,):
        assert file.path.read_text() == "user\n1\n"
    with (
        pytest.raises(UserError, match=r"users\.csv.* changed while this run read it: try again"),
        open_source(parse_source(str(path)), storage, tmp_path),
    ):
        path.write_text("user\n1\n2\n")
