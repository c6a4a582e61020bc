"""Imported datasets, and the input and output lines of batch jobs."""
