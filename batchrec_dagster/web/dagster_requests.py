"""Middleware that passes only safe and well-formed requests on to Dagster's page.

dagster-webserver itself executes GraphQL mutations that any page in the same browser sends: it
accepts them by GET, and with any content type. It answers malformed requests with status 500.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batchrec_dagster.web.guard import refuse
from batchrec_dagster.web.server import read_body


class DagsterRequests:
    """ASGI middleware that refuses unsafe paths, bodies that are not JSON, and GraphQL by GET.

    Websockets are passed on.

    has_run: a function that returns whether there is a run with this id.
    """

    def __init__(self, app: ASGIApp, has_run: Callable[[str], bool]) -> None:
        self.app, self.has_run = app, has_run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._require_answerable_path(scope["path"])
                if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                    receive = await _receive_json(scope, receive)
                # Only the start is compared, because Dagster's own route also matches /graphql with
                # a line feed after it.
                elif scope["path"].startswith("/graphql"):
                    _require_page_visit(scope)
            except HTTPException as error:
                await refuse(scope, receive, send, error.detail, error.status_code)
                return
        await self.app(scope, receive, send)

    async def _require_answerable_path(self, path: str) -> None:
        """Refuse the paths of notebooks, of runs that do not exist, and of malformed log paths.

        Dagster shows a notebook of a code location as a page of its own, and the page's scripts
        run.
        """
        # The path is stripped, because Dagster's own route also matches /notebook with a line feed
        # after it.
        if path.strip() in ("/notebook", "/dagit/notebook"):
            text = "Notebooks are not shown here: their scripts could start and stop runs."
            raise HTTPException(403, text)
        if path.startswith("/download_debug/"):
            run_id = path.removeprefix("/download_debug/")
            # PostgreSQL fails over a zero byte.
            if not (run_id.isprintable() and await run_in_threadpool(self.has_run, run_id)):
                raise HTTPException(404, "There is no such run.")
        if path.startswith("/logs/"):
            # A valid path has the form /logs/FOLDER/.../EXTENSION and does not leave the folder of
            # logs.
            parts = path.removeprefix("/logs/").split("/")
            if len(parts) == 1 or ".." in parts or "\0" in path:
                raise HTTPException(404, "There is no such log.")


def _require_page_visit(scope: Scope) -> None:
    """Refuse a GET of /graphql unless it only opens the GraphiQL page."""
    accepts_html = "text/html" in Headers(scope=scope).get("accept", "")
    if scope["query_string"] or scope["method"] != "GET" or not accepts_html:
        raise HTTPException(405, "Send GraphQL in the body of a POST.")


async def _receive_json(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` function that returns the request's JSON body first, then later messages.

    A browser sends JSON to another site only if that site permits it, which this site never does.

    Raises HTTPException if the body is not a JSON object, or if the fields of a GraphQL request
    have types that Dagster cannot read.
    """
    content_types = Headers(scope=scope).getlist("content-type")
    media_types = [value.partition(";")[0].strip() for value in content_types]
    if media_types != ["application/json"]:
        raise HTTPException(415, "Send Content-Type: application/json.")
    body = await read_body(receive)
    _require_request(body, is_graphql=scope["path"].startswith("/graphql"))
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _require_request(body: bytes, *, is_graphql: bool) -> None:
    """Raise HTTPException if Dagster could not read the body."""
    try:
        request = json.loads(body)
        if not isinstance(request, dict):
            text = "Send one JSON object. Batches of requests are not supported."
            raise HTTPException(400, text)
        variables = request.get("variables")
        if isinstance(variables, str):
            # Dagster also accepts variables as JSON in a string.
            variables = json.loads(variables)
    except (ValueError, RecursionError):
        text = "The body is not valid JSON, or is nested too deeply."
        raise HTTPException(400, text) from None
    has_types = (
        isinstance(variables, dict | None)
        and isinstance(request.get("query"), str | None)
        and isinstance(request.get("operationName"), str | None)
    )
    if is_graphql and not has_types:
        text = "Send query and operationName as text, and variables as an object."
        raise HTTPException(400, text)
