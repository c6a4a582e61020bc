"""Tests that all stores, sinks, sources, recipes and APIs must pass, as classes of shared tests."""
