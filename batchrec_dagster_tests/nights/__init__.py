"""Nights that go wrong: faults between the run, Personalize and S3, each of them real."""
