"""What tests do for each commit, and what they do every night alone."""

from __future__ import annotations

import os

import pytest

# Set by `make test-long`, which the workflow runs at night.
IS_LONG = os.environ.get("BATCHREC_LONG_TESTS") == "1"


def repeats(nightly: int, per_commit: int = 1) -> int:
    """The number of examples, kills or requests of a test.

    nightly: the number in `make test-long`.
    per_commit: the number in `make test`, which looks at one of each kind.
    """
    return nightly if IS_LONG else per_commit


def nightly(reason: str) -> pytest.MarkDecorator:
    """Marks a test that `make test-long` runs, and `make test` does not.

    reason: what is too dear for each commit.
    """
    return pytest.mark.skipif(not IS_LONG, reason=f"make test-long: {reason}")
