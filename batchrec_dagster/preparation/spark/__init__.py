"""Ratings -> interactions on Spark: the same rows and counts as `preparation.polars`.

It runs where Spark does, on Python 3.11, pyspark and dagster-pipes, and imports of this project
only `pipeline.spark_on_aws.MODULES`.
"""
