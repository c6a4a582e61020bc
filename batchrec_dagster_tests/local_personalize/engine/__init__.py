"""Tests that compare the engine's numbers with slow, plain versions."""
