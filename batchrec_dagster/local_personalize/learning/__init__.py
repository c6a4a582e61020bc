"""Recommender models as numbers: fit, score, evaluate. Knows no API and no storage."""
