"""Batch recommendations with Amazon Personalize, as Dagster assets."""
