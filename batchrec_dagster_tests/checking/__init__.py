"""Tests of `batchrec check`."""
