"""Explains the items of lists by the users' histories.

The lists themselves say why an item is there, and so do the report and `batchrec show`.
"""
