"""Faults that are put into batchrec on purpose, to see which test of the guard notices them."""
