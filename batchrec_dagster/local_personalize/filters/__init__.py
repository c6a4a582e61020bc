"""Filter expressions applied to the answers of batch jobs."""
