"""The declaration of a pipeline: one pydantic model for each block of the YAML.

Invalid settings fail at load time, with file and line. Strings may hold templates such as
`{{ env.RATINGS }}`.
"""

from batchrec_dagster.config.declaration import Pipeline
from batchrec_dagster.config.list_table import ListTable
from batchrec_dagster.config.settings import fingerprint

# The `type` of a pipeline in a defs.yaml.
COMPONENT_TYPE = "batchrec_dagster.BatchRecommendations"

__all__ = ["COMPONENT_TYPE", "ListTable", "Pipeline", "fingerprint"]
