"""How often tests do something at random: a little for each commit, more every night."""

from __future__ import annotations

import os

# Set by `make test-long`, which the workflow runs at night.
IS_LONG = os.environ.get("BATCHREC_LONG_TESTS") == "1"


def repeats(nightly: int, per_commit: int = 1) -> int:
    """The number of examples, kills or requests of a test.

    nightly: the number in `make test-long`. per_commit: the number in `make test`, which looks at
    one of each kind.
    """
    return nightly if IS_LONG else per_commit
