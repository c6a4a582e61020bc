"""Objects, tables and records, in a folder or a bucket."""
