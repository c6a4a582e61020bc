"""Tests of what `batchrec check` looks at."""
