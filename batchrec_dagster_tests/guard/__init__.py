"""Tests that enter where a user does. README.md says which of them holds which promise."""
