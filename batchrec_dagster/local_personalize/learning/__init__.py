"""Recommenders trained on interactions: data, models, model selection, evaluation, serving.

It works on arrays and files of its own. It knows nothing of Personalize's API or of Dagster.
"""
