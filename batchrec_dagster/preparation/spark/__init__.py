"""Ratings -> interactions on Spark: the same set of interactions as `preparation.polars` writes.

Spark reads the files and applies the rules that look at more than one row. Its workers read each
row by the functions of `preparation.polars`.

It runs where Spark does, with Polars and dagster-pipes, and needs no other library of this project.
"""
