"""Faults that are made in the product on purpose, to see which test of the guard notices."""
