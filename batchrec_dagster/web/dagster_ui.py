"""Dagster's web server behind the guard, with or without the daemon that runs schedules.

Alone, dagster-webserver executes GraphQL mutations from any page that the same browser shows: sent
by GET, with any Host and Origin.
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

POLL_MS = 2000  # how often the pages of the UI ask for what is new
STOP_SECONDS = 60  # how long the daemon may take to stop


NO_NOTEBOOKS = "Notebooks are not shown here: their scripts could start and stop runs."
NOT_AN_OBJECT = "Send one JSON object. Batches of requests are not supported."


class KnownFiles:
    """ASGI middleware: no notebooks, and 404 for a run and a log that Dagster would fail over.

    Dagster shows a notebook of a code location as a page of its own, whose scripts run. has_run
    says whether there is a run with this id.
    """

    def __init__(self, app: ASGIApp, has_run: Callable[[str], bool]) -> None:
        self.app, self.has_run = app, has_run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        # Stripped, as Dagster's own route also matches /notebook and a line feed.
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
    """ASGI middleware: GraphQL only in the body of a POST, and every POST in JSON, within limits.

    A browser sends JSON to another site only after asking that site, which never agrees. A GET of
    /graphql shows the GraphiQL page and executes nothing. The JSON is an object, and for /graphql
    has the types of a request: Dagster fails with 500 over any other.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            media_types = [
                each.partition(";")[0].strip() for each in headers.getlist("content-type")
            ]
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
            if problem := _problem(body, is_graphql=scope["path"].startswith("/graphql")):
                await refuse(scope, receive, send, problem, 400)
                return
            receive = _again(body, receive)
        # Not by equality: Dagster's own route also matches /graphql and a line feed.
        elif scope["path"].startswith("/graphql"):
            page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
            if scope["query_string"] or not page:
                await refuse(scope, receive, send, "Send GraphQL in the body of a POST.", 405)
                return
        await self.app(scope, receive, send)


def _problem(body: bytes, *, is_graphql: bool) -> str | None:
    """Why Dagster could not read the body; None if it can."""
    try:
        request = json.loads(body)
        if not isinstance(request, dict):
            return NOT_AN_OBJECT
        variables = request.get("variables")
        # Dagster also takes them as text.
        variables = json.loads(variables) if isinstance(variables, str) else variables
    except (ValueError, RecursionError):
        return "The body is not valid JSON, or is nested too deeply."
    texts = (request.get("query"), request.get("operationName"))
    right = isinstance(variables, dict | None) and all(
        isinstance(text, str | None) for text in texts
    )
    if is_graphql and not right:
        return "Send query and operationName as text, and variables as an object."
    return None


def _again(body: bytes, receive: Receive) -> Receive:
    """Receive the body that was read, then what follows."""
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def guarded_ui(context: web_server.WorkspaceProcessContext, hosts: Collection[str]) -> ASGIApp:
    app = web_server.create_app_from_workspace_process_context(context, live_data_poll_rate=POLL_MS)
    guarded = KnownFiles(
        JsonPosts(app), lambda run_id: context.instance.get_run_by_id(run_id) is not None
    )
    return Guard(guarded, hosts)


def serve_ui(
    workspace: Sequence[Path], host: str, port: int, hosts: Collection[str], *, daemon: bool
) -> None:
    """Serve Dagster's web page until SIGINT or SIGTERM.

    `workspace` are the files that name the code locations, and `hosts` the names by which the page
    may be reached. With `daemon`, Dagster's daemon runs schedules and sensors.
    Raises click.ClickException if the daemon stops by itself.
    """
    # uvicorn raises a signal again after it has stopped: the rest must stop too.
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
            files = [stack.enter_context(_code_servers(instance, files))]
            process = stack.enter_context(_daemon(files[0]))
        context = stack.enter_context(
            web_server.WorkspaceProcessContext(
                instance,
                version=web_server.__version__,
                workspace_load_target=web_server.WorkspaceFileTarget(paths=files),
            )
        )
        server = LimitedServer(guarded_ui(context, hosts), host, port, log_level="warning")
        if daemon:
            threading.Thread(target=_stop_with, args=(process, server), daemon=True).start()
        click.echo(f"Dagster is on http://{host}:{port}. Stop it with Ctrl-C.", err=True)
        server.run()
        if daemon and process.poll() is not None:
            raise click.ClickException("Dagster's daemon has stopped; its last lines say why.")


def _stop_with(process: subprocess.Popen[bytes], server: uvicorn.Server) -> None:
    process.wait()
    server.should_exit = True


@contextmanager
def _code_servers(instance: dg.DagsterInstance, workspace: Sequence[str]) -> Iterator[str]:
    """One process that loads the pipelines, for web server and daemon; yields a workspace file."""
    target = web_server.WorkspaceFileTarget(paths=[*workspace])
    with (
        web_server.ProxyServerManager(instance, target, code_server_log_level="warning") as servers,
        temporary_folder() as folder,
    ):
        file = folder / "workspace.yaml"
        file.write_text(yaml.safe_dump({"load_from": [*servers.get_code_server_specs()]}))
        yield str(file)


@contextmanager
def _daemon(workspace: str) -> Iterator[subprocess.Popen[bytes]]:
    # The script of this environment, which is on no PATH if the environment is not activated.
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
