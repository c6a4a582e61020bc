"""Ratings -> interactions on Spark: the same rows and counts as `preparation.local`.

This package runs where Spark does: it needs Python 3.11, pyspark and dagster-pipes, and of
`preparation` only `errors`, `json_lines`, `layout`, `locating` and `rules`.
"""
