"""Resources, their statuses and their jobs, in SQLite."""
