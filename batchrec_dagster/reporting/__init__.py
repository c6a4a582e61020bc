"""What people read about a pipeline's results: the report, and what `batchrec show` prints."""
