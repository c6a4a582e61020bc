"""Resources and their statuses, in SQLite."""
