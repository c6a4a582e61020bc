"""What people did with past editions, and the results of experiments."""
