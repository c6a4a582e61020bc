"""What a run launcher needs to tell Dagster's run monitoring that a run's process is gone.

`dagster.DefaultRunLauncher` is public, but reports no health: without it, a run whose process or
code location is gone stays "started" until a person ends it. The types that it takes and answers
with are not public.
"""

from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
