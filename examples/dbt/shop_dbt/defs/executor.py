"""Steps run one after the other in the run's process: to start one for each takes longer here."""

import dagster as dg

defs = dg.Definitions(executor=dg.in_process_executor)
