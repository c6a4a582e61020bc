"""Where people use the lists: a PostgreSQL table, a DynamoDB table, a file for a mailing tool.

Each takes the table of recommendations as a LazyFrame of user_id, rank (1 is the best), item_id,
title (where there are titles) and score, every user's rows together and in order of rank. It reads
it in batches, so that its memory does not grow with the table, writes what is there, removes what
is gone, and compares what it wrote with what it was given. What goes wrong is a SinkError; what may
pass is a SinkUnavailableError. This floor knows no Dagster, and of the rest `object_store` only.
"""

from batchrec_dagster.sinks.errors import SinkError, SinkUnavailableError
from batchrec_dagster.sinks.lists import Counts

__all__ = ["Counts", "SinkError", "SinkUnavailableError"]
