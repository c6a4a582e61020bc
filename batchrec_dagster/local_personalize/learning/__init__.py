"""Recommending from interactions: data, models, evaluation, batch scoring.

Numbers only: nothing here knows of an API, of Dagster or of files other than a model's own.
"""
