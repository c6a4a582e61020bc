"""What people did with the lists, and what an experiment shows: records and estimates only."""
