"""Functions that make and run an HTTP server with limits, and that read a request's body."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import uvicorn
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive

MAX_CONNECTIONS = 256  # well below the 1,024 descriptors that a process usually has
MAX_HEADER_BYTES = 1 << 16
STOP_SECONDS = 10  # how long a stopping server waits for open requests
MAX_BODY_BYTES = 1 << 20  # far more than any request to Dagster or Personalize needs
BODY_SECONDS = 30.0  # how long a client may take to send a body
# These headers keep other pages from showing this server in a frame, in which the pages could
# mislead people to click.
FRAME_HEADERS = [
    ("content-security-policy", "frame-ancestors 'none'"),
    ("x-frame-options", "DENY"),
]


def make_server(app: ASGIApp, host: str, port: int, log_level: str) -> uvicorn.Server:
    """Return a server of the application, which `run_server` runs.

    log_level: the level of the server's own log. At "info" the server logs each request.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        http="h11",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws_max_size=MAX_BODY_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
        headers=FRAME_HEADERS,
    )
    return uvicorn.Server(config)


def run_server(server: uvicorn.Server) -> None:
    """Serve until SIGINT or SIGTERM, or until `server.should_exit`."""
    # uvicorn raises KeyboardInterrupt again after Ctrl-C has stopped it. Ctrl-C is a normal way to
    # end the server, so no traceback is needed.
    with suppress(KeyboardInterrupt):
        server.run()


async def read_body(receive: Receive) -> bytes:
    """Return the request's whole body.

    Reading stops at the first message that exceeds the limit, so memory holds at most
    MAX_BODY_BYTES and one message. Raises HTTPException if the body is too large or comes too
    slowly, or if the client has gone.
    """
    body = bytearray()
    is_complete = False
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while not is_complete:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "The client has gone.")
                body += message.get("body", b"")
                is_complete = not message.get("more_body", False)
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, f"A request may have at most {MAX_BODY_BYTES} bytes.")
    except TimeoutError:
        raise HTTPException(408, "The request came too slowly.") from None
    return bytes(body)
