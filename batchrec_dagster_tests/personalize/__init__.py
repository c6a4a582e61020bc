"""Tests of personalize."""
