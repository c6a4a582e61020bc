"""What people read of a pipeline's results."""
