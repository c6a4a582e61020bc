"""Dagster's web server behind batchrec's guard, with or without Dagster's daemon.

The daemon runs schedules and sensors.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import dagster as dg
import uvicorn
import yaml
from starlette.types import ASGIApp

from batchrec_dagster.cli import dagster_web_server as web_server
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.web.dagster_requests import DagsterRequests
from batchrec_dagster.web.guard import Guard
from batchrec_dagster.web.server import make_server, run_server

POLL_MS = 2000  # how often the pages of the UI ask for new data
STOP_SECONDS = 60  # how long the daemon may take to stop


def build_guarded_ui(
    context: web_server.WorkspaceProcessContext, hosts: Collection[str]
) -> ASGIApp:
    """Return Dagster's web application behind batchrec's middleware."""

    def has_run(run_id: str) -> bool:
        return context.instance.get_run_by_id(run_id) is not None

    app = web_server.create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MS)
    return Guard(DagsterRequests(app, has_run), hosts)


def serve_ui(
    workspace: Sequence[Path], host: str, port: int, hosts: Collection[str], *, daemon: bool
) -> None:
    """Serve Dagster's web page until SIGINT or SIGTERM.

    workspace: the files that name the code locations.
    hosts: the host names by which the page may be reached.
    daemon: whether to run Dagster's daemon too, for schedules and sensors.

    Raises click.ClickException if the daemon stops by itself.
    """
    # After uvicorn has stopped because of a signal, it raises the same signal again. By default,
    # SIGTERM would then kill this process at once. With the handler of SIGINT, it ends the daemon
    # and the code servers first, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    files = [str(path) for path in workspace]
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.get())
        instance.optimize_for_webserver(
            web_server.DEFAULT_DB_STATEMENT_TIMEOUT,
            web_server.DEFAULT_POOL_RECYCLE,
            web_server.DEFAULT_POOL_MAX_OVERFLOW,
        )
        if daemon:
            # `dagster dev` sets this variable too. It makes Dagster log shorter stack traces.
            os.environ["DAGSTER_IS_DEV_CLI"] = "1"
            files = [stack.enter_context(_run_code_servers(instance, files))]
            process = stack.enter_context(_run_daemon(files[0]))
        context = stack.enter_context(
            web_server.WorkspaceProcessContext(
                instance,
                version=web_server.__version__,
                workspace_load_target=web_server.WorkspaceFileTarget(paths=files),
            )
        )
        server = make_server(build_guarded_ui(context, hosts), host, port, "warning")
        if daemon:
            threading.Thread(target=_stop_server_after, args=(process, server), daemon=True).start()
        click.echo(f"Dagster is on http://{host}:{port}. Stop it with Ctrl-C.", err=True)
        run_server(server)
        if daemon and process.poll() is not None:
            raise click.ClickException("Dagster's daemon has stopped. Its last lines say why.")


def _stop_server_after(process: subprocess.Popen[bytes], server: uvicorn.Server) -> None:
    """Wait until the process ends, then stop the server."""
    process.wait()
    server.should_exit = True


@contextmanager
def _run_code_servers(instance: dg.DagsterInstance, workspace: Sequence[str]) -> Iterator[str]:
    """Run processes that load the pipelines for both the web server and the daemon.

    Yields the path of a workspace file that names the processes.
    """
    target = web_server.WorkspaceFileTarget(paths=[*workspace])
    with (
        web_server.ProxyServerManager(instance, target, code_server_log_level="warning") as servers,
        temporary_folder() as folder,
    ):
        file = folder / "workspace.yaml"
        file.write_text(yaml.safe_dump({"load_from": [*servers.get_code_server_specs()]}))
        yield str(file)


@contextmanager
def _run_daemon(workspace: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Dagster's daemon, and stop it when the block ends."""
    # The script may be missing on PATH, if this Python environment is not activated.
    program = shutil.which("dagster-daemon", path=sysconfig.get_path("scripts"))
    command = [program or "dagster-daemon", "run", "--workspace", workspace]
    with durable.copy_permissions(Path(os.environ["DAGSTER_HOME"])):
        process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
