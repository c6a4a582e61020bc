"""The published editions of lists: their tables, their records, and withdrawn lists."""
