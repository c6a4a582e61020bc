"""Tests of nights with real faults between the run, Personalize and S3."""
