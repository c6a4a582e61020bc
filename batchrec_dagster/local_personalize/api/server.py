"""The local Personalize over HTTP, for any AWS SDK and the `aws` command.

Point a client at the server with AWS_ENDPOINT_URL_PERSONALIZE. The responses are equal to those of
the embedded client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchrec_dagster.personalize.measurements import HEADER
from batchrec_dagster.web.guard import Guard
from batchrec_dagster.web.hosts import is_loopback
from batchrec_dagster.web.server import make_server, read_body, run_server

from ..errors import CatalogueError
from ..jobs import logger
from .service import HttpResponse, LocalPersonalize
from .signatures import AccessKey, SignatureError, check_signature


def make_application(
    service: LocalPersonalize, *, key: AccessKey | None = None, hosts: Collection[str] = ()
) -> Starlette:
    """Return the ASGI application.

    key: the access key that requests must be signed with; None if they need no signature.
    hosts: the host names that clients may use, besides the names of the loopback interface.
    """

    async def personalize(request: Request) -> Response:
        try:
            body = await read_body(request.receive)
            if key is not None:
                check_signature(key, request.headers, body)
            target = request.headers.get("x-amz-target", "")
            events = request.headers.get(HEADER, "")
            response = await run_in_threadpool(service.answer, target, body, events)
        except SignatureError as error:
            response = HttpResponse.make_error(403, error.code, str(error))
        except CatalogueError as error:
            response = HttpResponse.make_error(500, "InternalFailure", str(error))
        return Response(response.body, response.status, response.headers)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    routes = [Route("/", personalize, methods=["POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Guard, hosts)])


def serve(
    service: LocalPersonalize,
    host: str,
    port: int,
    *,
    key: AccessKey | None,
    hosts: Collection[str],
) -> None:
    """Serve until SIGINT or SIGTERM, and log each request.

    key: the access key that requests must be signed with; None if they need no signature.
    hosts: the host names that clients may use, besides the names of the loopback interface.
    """
    if not is_loopback(host):
        logger.warning(
            "listening on %s: anyone who can reach this address can use this Personalize%s",
            host,
            "" if key else ", as no access key is set",
        )
    app = make_application(service, key=key, hosts=hosts)
    run_server(make_server(app, host, port, "info"))
