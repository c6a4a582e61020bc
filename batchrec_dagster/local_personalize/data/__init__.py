"""Imported datasets, filters on them, and the input and output lines of batch jobs."""
