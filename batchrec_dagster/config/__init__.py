"""The typed parts of a pipeline's declaration.

Every value is checked when the YAML is loaded, so that what is impossible fails with the file and
line before anything runs. Strings may hold Dagster's templates, such as `{{ env.RATINGS }}`.
"""

from batchrec_dagster.config.fields import fingerprint
from batchrec_dagster.config.pipeline import Pipeline

__all__ = ["Pipeline", "fingerprint"]
