"""The nights of a pipeline, as insight has them."""

from batchrec_dagster.reporting.insight.nights import (
    ListedNight as ListedNight,
)
from batchrec_dagster.reporting.insight.nights import (
    Status as Status,
)
from batchrec_dagster.reporting.insight.nights import (
    list_nights as list_nights,
)
from batchrec_dagster.reporting.insight.nights import (
    read_other_nights as read_other_nights,
)
