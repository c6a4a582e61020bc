"""`batchrec check`: whether a deployment and its pipelines are ready for a run, and what to fix."""
