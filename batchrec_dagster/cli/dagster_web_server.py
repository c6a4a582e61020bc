"""What starts Dagster's web server from Python, and code servers for it and the daemon.

The public command `dagster-webserver` has no hook for the guard of Host and Origin, without which
any web page in the same browser could start and stop runs. A proxy in front of the command would
leave its own port open to the browser. Nothing public starts one code server for web server and
daemon: each would load the pipelines, and a reload in the page would not reach the daemon.

Any release of Dagster may move what is imported here. A test names each import that a release has
moved, and CI runs it against the newest Dagster.
"""

from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.app import create_app_from_workspace_process_context
from dagster_webserver.cli import (
    DEFAULT_DB_STATEMENT_TIMEOUT,
    DEFAULT_POOL_MAX_OVERFLOW,
    DEFAULT_POOL_RECYCLE,
)
from dagster_webserver.version import __version__
