"""The hosts, limits and guards that Dagster's page and the local Personalize server share."""
