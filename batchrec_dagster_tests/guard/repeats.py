"""The amount of testing for each commit, and the larger amount every night."""

from __future__ import annotations

import os

import pytest

# Set by `make test-long`, which the workflow runs at night.
IS_LONG = os.environ.get("BATCHREC_LONG_TESTS") == "1"


def repeats(nightly: int, per_commit: int = 1) -> int:
    """Return the number of examples, kills or requests of a test.

    nightly: the number in `make test-long`.
    per_commit: the number in `make test`.
    """
    return nightly if IS_LONG else per_commit


def nightly(reason: str) -> pytest.MarkDecorator:
    """Return a mark for a test that runs in `make test-long` but not in `make test`.

    reason: why the test is too expensive for each commit.
    """
    return pytest.mark.skipif(not IS_LONG, reason=f"make test-long: {reason}")
