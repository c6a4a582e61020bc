"""Dagster's web server behind the guard, with or without the daemon that runs schedules.

dagster-webserver itself executes GraphQL mutations that any page in the same browser sends: it
accepts them by GET, with any Host and Origin.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import dagster as dg
import uvicorn
import yaml
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchrec_dagster.dagster_internals import web_server
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.web.guard import Guard, refuse
from batchrec_dagster.web.server import BodyTooLargeError, LimitedServer, read_body

POLL_MS = 2000  # how often the pages of the UI ask for new data
STOP_SECONDS = 60  # how long the daemon may take to stop


NO_NOTEBOOKS = "Notebooks are not shown here: their scripts could start and stop runs."
NOT_AN_OBJECT = "Send one JSON object. Batches of requests are not supported."


class PathFilter:
    """ASGI middleware that refuses the paths of notebooks, missing runs and impossible logs.

    Dagster shows a notebook of a code location as a page of its own, whose scripts run. It fails
    with status 500 if there is no such run, or if the path of a log is not well-formed.

    has_run: whether there is a run with this id.
    """

    def __init__(self, app: ASGIApp, has_run: Callable[[str], bool]) -> None:
        self.app, self.has_run = app, has_run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        # Stripped, because Dagster's own route also matches /notebook and a line feed.
        elif path.strip() in ("/notebook", "/dagit/notebook"):
            await refuse(scope, receive, send, NO_NOTEBOOKS)
        elif path.startswith("/download_debug/") and not await self._is_run(path):
            await refuse(scope, receive, send, "There is no such run.", 404)
        elif path.startswith("/logs/") and not _can_be_log(path):
            await refuse(scope, receive, send, "There is no such log.", 404)
        else:
            await self.app(scope, receive, send)

    async def _is_run(self, path: str) -> bool:
        run_id = path.removeprefix("/download_debug/")
        # PostgreSQL fails over a zero byte.
        return run_id.isprintable() and await run_in_threadpool(self.has_run, run_id)


def _can_be_log(path: str) -> bool:
    """Whether it is /logs/FOLDER/.../EXTENSION, all within the folder of logs."""
    parts = path.removeprefix("/logs/").split("/")
    return len(parts) > 1 and ".." not in parts and "\0" not in path


class JsonPosts:
    """ASGI middleware that requires JSON in the body of every POST, also of GraphQL requests.

    A browser sends JSON to another site only if that site permits it, which this one never does.
    A GET of /graphql only shows the GraphiQL page. The JSON must be an object, and for /graphql its
    fields must have the types of a request: otherwise Dagster would fail with status 500. The
    body's size is limited, and the time in which it must arrive.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            content_types = headers.getlist("content-type")
            media_types = [value.partition(";")[0].strip() for value in content_types]
            if media_types != ["application/json"]:
                await refuse(scope, receive, send, "Send Content-Type: application/json.", 415)
                return
            try:
                body = await read_body(receive)
            except BodyTooLargeError as error:
                await refuse(scope, receive, send, str(error), 413)
                return
            except TimeoutError:
                await refuse(scope, receive, send, "The request came too slowly.", 408)
                return
            except ClientDisconnect:
                return
            problem = _find_problem(body, is_graphql=scope["path"].startswith("/graphql"))
            if problem is not None:
                await refuse(scope, receive, send, problem, 400)
                return
            receive = _replay_body(body, receive)
        # Not compared as a whole: Dagster's own route also matches /graphql and a line feed.
        elif scope["path"].startswith("/graphql"):
            accepts_html = "text/html" in headers.get("accept", "")
            is_page_visit = scope["method"] == "GET" and accepts_html
            if scope["query_string"] or not is_page_visit:
                await refuse(scope, receive, send, "Send GraphQL in the body of a POST.", 405)
                return
        await self.app(scope, receive, send)


def _find_problem(body: bytes, *, is_graphql: bool) -> str | None:
    """Why Dagster could not read the body; None if it can."""
    try:
        request = json.loads(body)
        if not isinstance(request, dict):
            return NOT_AN_OBJECT
        variables = request.get("variables")
        if isinstance(variables, str):
            # Dagster also accepts them as JSON in a string.
            variables = json.loads(variables)
    except (ValueError, RecursionError):
        return "The body is not valid JSON, or is nested too deeply."
    is_valid = (
        isinstance(variables, dict | None)
        and isinstance(request.get("query"), str | None)
        and isinstance(request.get("operationName"), str | None)
    )
    if is_graphql and not is_valid:
        return "Send query and operationName as text, and variables as an object."
    return None


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first returns the body that was read already, then later messages."""
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def build_guarded_ui(
    context: web_server.WorkspaceProcessContext, hosts: Collection[str]
) -> ASGIApp:
    """Dagster's web application behind the middleware of this package."""

    def has_run(run_id: str) -> bool:
        return context.instance.get_run_by_id(run_id) is not None

    app = web_server.create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MS)
    return Guard(PathFilter(JsonPosts(app), has_run), hosts)


def serve_ui(
    workspace: Sequence[Path], host: str, port: int, hosts: Collection[str], *, daemon: bool
) -> None:
    """Serve Dagster's web page until SIGINT or SIGTERM.

    workspace: the files that name the code locations.
    hosts: the names by which the page may be reached.
    daemon: whether to run Dagster's daemon too, for schedules and sensors.

    Raises click.ClickException if the daemon stops by itself.
    """
    # uvicorn raises a signal again after it has stopped. SIGTERM must then end the daemon and the
    # code servers as Ctrl-C does.
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
            os.environ["DAGSTER_IS_DEV_CLI"] = "1"  # as `dagster dev`: short stack traces
            files = [stack.enter_context(_running_code_servers(instance, files))]
            process = stack.enter_context(_running_daemon(files[0]))
        context = stack.enter_context(
            web_server.WorkspaceProcessContext(
                instance,
                version=web_server.__version__,
                workspace_load_target=web_server.WorkspaceFileTarget(paths=files),
            )
        )
        server = LimitedServer(build_guarded_ui(context, hosts), host, port, log_level="warning")
        if daemon:
            threading.Thread(target=_stop_server_after, args=(process, server), daemon=True).start()
        click.echo(f"Dagster is on http://{host}:{port}. Stop it with Ctrl-C.", err=True)
        server.run()
        if daemon and process.poll() is not None:
            raise click.ClickException("Dagster's daemon has stopped. Its last lines say why.")


def _stop_server_after(process: subprocess.Popen[bytes], server: uvicorn.Server) -> None:
    """Wait until the process ends, then stop the server."""
    process.wait()
    server.should_exit = True


@contextmanager
def _running_code_servers(instance: dg.DagsterInstance, workspace: Sequence[str]) -> Iterator[str]:
    """Processes that load the pipelines, which the web server and the daemon share.

    Yields the path of a workspace file that names them.
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
def _running_daemon(workspace: str) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, which stops when the block ends."""
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
