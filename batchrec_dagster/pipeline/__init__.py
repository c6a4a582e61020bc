"""From a declaration in YAML to Dagster assets, checks, a job and a schedule."""

# The `type` of a pipeline in a defs.yaml; the second is its name before version 0.1.
COMPONENT_TYPE = "batchrec_dagster.BatchRecommendations"
OLD_COMPONENT_TYPE = "batchrec_dagster.pipeline.BatchRecommendations"
