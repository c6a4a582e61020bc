"""From a declaration in YAML to Dagster assets, checks, a job and a schedule."""

from batchrec_dagster.pipeline.component import BatchRecommendations

__all__ = ["BatchRecommendations"]
