"""What was published and when, of what, and what was withdrawn."""
