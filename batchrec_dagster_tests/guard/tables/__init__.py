"""Input beside what must come of it, a case a line: files and rows, refusals, filters, numbers."""
