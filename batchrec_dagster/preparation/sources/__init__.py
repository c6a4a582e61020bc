"""The sources of input files and rows."""
