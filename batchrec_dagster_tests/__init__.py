"""Tests of batchrec. This module runs before any import that starts threads."""

import gc
import os

# OpenMP's threads wait for the next small piece of work by spinning: where workers share cores,
# a fit of factors on a few rows took 80 ms of CPU, and takes 8.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# A search for garbage looks at everything that Dagster imports, as in batchrec's own processes.
gc.set_threshold(200_000)
