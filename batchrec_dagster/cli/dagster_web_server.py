"""The parts of Dagster that start its web server and its code servers from Python.

The public command `dagster-webserver` has no hook for the guard that checks the Host and Origin
headers. Without the guard, any web page in the same browser could start and stop runs. A proxy in
front of the command would leave the command's own port open to the browser.

Dagster also has no public way to start one code server for both the web server and the daemon. With
two code servers, each would load the pipelines, and a reload in the page would not reach the
daemon.

Any release of Dagster may move the names that are imported here. A test names each import that a
release has moved, and CI runs that test against the newest Dagster.
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
