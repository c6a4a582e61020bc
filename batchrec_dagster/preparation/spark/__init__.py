"""Ratings -> interactions on Spark: the same rows and counts as `preparation.polars`.

Its workers read each row by the functions of `preparation.polars`. Spark itself splits the files
into lines, applies the rules that look at more than one row, and writes.

It runs where Spark does, with pyspark, Polars and dagster-pipes, and imports of this project only
`pipeline.spark_on_aws.MODULES`.
"""
