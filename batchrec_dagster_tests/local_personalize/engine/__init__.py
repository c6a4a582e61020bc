"""Tests of the engine: numbers against slow plain versions."""
