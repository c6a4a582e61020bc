"""Translation of a declaration in YAML to Dagster assets, checks, jobs, a schedule and sensors."""
