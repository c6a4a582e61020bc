"""Tests that use batchrec as its users do. README.md says which test checks which promise."""
