"""Plain accounts of what must come out, which know nothing of how batchrec does it."""
