"""The ASGI application: routes of all topics, and what is the same for every request.

Paths are matched as they came over the wire and decoded afterwards, because a revision such as ``refs%2Fpr%2F1`` is
one part of a path, not three. Request bodies are always read to the end before an answer: a client that keeps its
connection alive would take the rest for its next request.

A topic is a module with `ROUTES`; a new one is added to `TOPICS`. Where two routes match, the earlier topic gets the
request.
"""

import inspect
import logging
import tempfile
from functools import partial
from typing import IO, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp

from hub_fusion.local_hub import (
    access,
    browse,
    buckets,
    commits,
    curation,
    discussions,
    duplicates,
    files,
    git,
    hardware,
    info,
    jobs,
    lfs,
    lfs_files,
    listing,
    multipart,
    owned,
    people,
    preupload,
    refs,
    repos,
    schedules,
    settings,
    short_names,
    side,
    space_values,
    spaces,
    unserved,
    validate,
    webhooks,
    xet,
    xet_read,
)
from hub_fusion.local_hub.call import API_REPO, SPACE_REPO, STORE, Call, Moved, Route, drain, error_response
from hub_fusion.local_hub.errors import HubError, repo_not_found
from hub_fusion.local_hub.faults import Faults
from hub_fusion.local_hub.limits import Limits
from hub_fusion.local_hub.store import Store
from hub_fusion.local_hub.users import authenticate
from hub_fusion.local_hub.wire import WireApp

log = logging.getLogger(__name__)
TOPICS = (side, git, validate, webhooks, hardware, jobs, schedules, spaces, space_values, buckets, duplicates, repos,
          settings, access, listing, refs, browse, preupload, commits, discussions, lfs, lfs_files, multipart, people,
          owned, curation, xet_read, xet, info, files, unserved)  # fmt: skip
SPOOL_IN_MEMORY = 4 * 2**20
NO_NAMESPACE = short_names.pattern(
    {r.path.removeprefix(f"{repo}/").split("/")[0] for topic in TOPICS for r in topic.ROUTES
     for repo in (API_REPO, SPACE_REPO) if r.path.startswith(f"{repo}/")}
)  # fmt: skip


class KindConvertor(StringConvertor):
    """`{kind:hub_kind}` in a path: models, datasets or spaces."""

    regex = "models|datasets|spaces"


class SpacesConvertor(StringConvertor):
    """`{kind:hub_spaces}`: what only Spaces have."""

    regex = "spaces"


def build_app(store: Store, limits: Limits, faults: Faults) -> ASGIApp:
    """The application that serves `store` within the limits, but for the faults."""
    register_url_convertor("hub_kind", KindConvertor())
    register_url_convertor("hub_spaces", SpacesConvertor())
    routes = [
        StarletteRoute(route.path, _endpoint(store, route), methods=[route.method])
        for topic in TOPICS
        for route in topic.ROUTES
    ]
    handlers = {HTTPException: partial(_unknown, store), Exception: _crashed}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    return WireApp(app, store, limits, faults)


def _endpoint(store: Store, route: Route) -> Any:
    is_async = inspect.iscoroutinefunction(route.handler)

    async def endpoint(request: Request) -> Response:
        body, spool = b"", None
        try:
            if route.body == "memory":
                body = await _read(request, route.limit)
            elif route.body == "spool":
                spool = await _spool(request)
            call = await run_in_threadpool(_open_call, store, route, request, body, spool)
            if is_async:
                response: Response = await route.handler(call)
            else:
                response = await run_in_threadpool(route.handler, call)
            return response
        except HubError as error:
            return await _missing(store, request, error) if error.code == "RepoNotFound" else error_response(error)
        except ClientDisconnect:
            return Response(status_code=499)
        finally:
            if spool is not None:
                spool.close()

    return endpoint


def _open_call(store: Store, route: Route, request: Request, body: bytes, spool: IO[bytes] | None) -> Call:
    try:
        params = {name: unquote(value, errors="strict") for name, value in request.path_params.items()}
    except UnicodeDecodeError:
        raise HubError(400, "The path is not valid UTF-8.") from None
    user = None
    if route.token:
        with store.db.read() as con:
            user = authenticate(con, request.headers.get("authorization"))
    return Call(request.scope.get(STORE, store), request, params, user, body, spool)


async def _read(request: Request, limit: int) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
    if size > limit:
        raise HubError(413, f"The request body has {size} bytes; at most {limit} are taken here.")
    return b"".join(pieces)


async def _spool(request: Request) -> IO[bytes]:
    spool = tempfile.SpooledTemporaryFile(SPOOL_IN_MEMORY)  # noqa: SIM115 - closed by the endpoint
    async for piece in request.stream():
        if len(piece) > 2**20:
            await run_in_threadpool(spool.write, piece)
        else:
            spool.write(piece)
    spool.seek(0)
    return spool


async def _unknown(store: Store, request: Request, error: HTTPException) -> Response:
    await drain(request)
    if NO_NAMESPACE.fullmatch(request.scope["path"]):
        return await _missing(store, request, repo_not_found())
    if error.status_code == 405:
        return error_response(HubError(405, f"{request.method} is not served here."))
    return error_response(HubError(404, f"Not served here: {request.method} {request.url.path}"))


async def _missing(store: Store, request: Request, error: HubError) -> Response:
    """The refusal, or the way to the repository if it was named without a namespace ("gpt2") and has such a name."""
    match = NO_NAMESPACE.fullmatch(request.scope["path"])
    if match is not None:
        query, header = request.url.query, request.headers.get("authorization")
        there = await run_in_threadpool(short_names.elsewhere, store, match, query, header)
        error = error if there is None else Moved(there)
    return error_response(error)


async def _crashed(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(HubError(500, "Internal Error - the server's log says more"))
