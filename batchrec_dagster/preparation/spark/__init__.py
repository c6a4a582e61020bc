"""Ratings -> interactions on Spark: the rows and counts that `preparation.local` gives; and the way
back, a batch job's answers -> the table of lists.

What is in this package runs where Spark does: it needs Python 3.11, pyspark and dagster-pipes, and
of `preparation` only `errors`, `json_lines`, `layout`, `locating` and `rules`.
"""
