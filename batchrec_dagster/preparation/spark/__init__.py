"""Preparation of interactions on Spark, with the same set of interactions as `preparation.polars`.

Spark reads the files and applies the rules that look at more than one row. Its workers read each
row with the functions of `preparation.polars`.

This package runs on Spark's machines with Polars and dagster-pipes, and needs no other library of
this project.
"""
