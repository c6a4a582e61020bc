"""The report about a pipeline's results, and the terminal output of commands."""
