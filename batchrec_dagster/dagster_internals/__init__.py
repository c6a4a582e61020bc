"""All that this project uses of Dagster beyond its public API; any release of it may move these.

A test names each that has moved. `web_server` has what `batchrec ui` alone needs: it is slow to
import.
"""

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._utils.schedules import get_latest_completed_cron_tick
