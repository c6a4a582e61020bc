"""Real servers that tests talk to: S3, PostgreSQL, the web, Dagster, the local Personalize."""
