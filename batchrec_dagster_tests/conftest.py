"""Fixtures for tests that run pipelines in this process."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster_tests.support import Project, module_project


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return module_project(tmp_path)
