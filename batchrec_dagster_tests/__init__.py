"""Tests; this runs before anything that starts threads is imported."""

import gc
import os

# OpenMP's threads wait for the next small piece of work by spinning: where workers share cores,
# a fit of factors on a few rows took 80 ms of CPU, and takes 8.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# As in batchrec's own processes: a search for garbage looks at all that Dagster imports.
gc.set_threshold(200_000)
