"""The checks of `batchrec check`: whether a deployment and its pipelines are ready for a run.

Each finding also says what to fix.
"""
