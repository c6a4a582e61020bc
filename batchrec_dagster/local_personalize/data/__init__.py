"""Imported datasets, and the files of batch jobs."""
