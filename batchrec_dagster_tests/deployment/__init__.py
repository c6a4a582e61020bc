"""Tests of what a deployment is: its policies on AWS, and Dagster's home."""
