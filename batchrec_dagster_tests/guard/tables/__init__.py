"""Tests as tables of inputs and expected results: files and rows, refusals, filters, numbers."""
