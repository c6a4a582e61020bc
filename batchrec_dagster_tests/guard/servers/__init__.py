"""Real servers for tests: S3, PostgreSQL, the web, Dagster and the local Personalize."""
