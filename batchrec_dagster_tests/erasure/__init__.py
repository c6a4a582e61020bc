"""Tests of batchrec_dagster.erasure."""
