"""What surrounds every request: its path undecoded, the headers every answer has, rate limits, injected faults.

Limits and faults cost a test of two empty collections while there are none.
"""

import re
import secrets

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub_fusion.local_hub.call import refuse
from hub_fusion.local_hub.faults import Faults
from hub_fusion.local_hub.inject import carry_out
from hub_fusion.local_hub.limits import UNLIMITED, Limits, Standing, bucket_of
from hub_fusion.local_hub.store import Store
from hub_fusion.local_hub.stream import RAW_SEND
from hub_fusion.local_hub.users import token_digest

REQUEST_ID = re.compile(rb"[\w=-]{1,64}", re.ASCII)


class WireApp:
    """Matches paths undecoded and stamps the headers every answer has."""

    def __init__(self, app: ASGIApp, store: Store, limits: Limits, faults: Faults) -> None:
        self._app, self._store, self._limits, self._faults = app, store, limits, faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("latin-1")
        scope = {**scope, "path": path, RAW_SEND: send}
        headers = dict(scope["headers"])
        bucket = bucket_of(path)
        standing = UNLIMITED[bucket or "api"]
        if self._limits and bucket is not None:
            caller = await run_in_threadpool(self._caller, headers.get(b"authorization", b""), scope)
            standing = self._limits.take(bucket, caller)
        stamped = _stamp(send, _request_id(headers), standing)
        if not standing.allowed:
            await refuse(standing.refusal, scope, receive, stamped)
            return
        fault = self._faults.choose(scope["method"], path) if self._faults else None
        if fault is None:
            await self._app(scope, receive, stamped)
        else:
            await carry_out(fault, self._app, scope, receive, stamped)

    def _caller(self, authorization: bytes, scope: Scope) -> str:
        """What a quota belongs to: a token that somebody was given, else an address."""
        digest = token_digest(authorization.decode("latin-1"))
        if digest is not None:
            with self._store.db.read() as con:
                if con.execute("SELECT 1 FROM tokens WHERE sha256=?", (digest,)).fetchone():
                    return digest
        return str((scope["client"] or ["?"])[0])


def _request_id(headers: dict[bytes, bytes]) -> bytes:
    """What an answer is found by in logs: the caller's own word, else a new one with the caller's trace in it."""
    asked, trace = headers.get(b"x-request-id", b""), headers.get(b"x-amzn-trace-id", b"")
    if REQUEST_ID.fullmatch(asked):
        return asked
    return f"Root=1-{secrets.token_hex(4)}".encode() + (b";" + trace if REQUEST_ID.fullmatch(trace) else b"")


def _stamp(send: Send, request_id: bytes, standing: Standing) -> Send:
    async def stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            limits = standing.headers
            if any(name == b"ratelimit" for name, _ in message["headers"]):  # an injected one
                limits = []
            message["headers"] = [*message["headers"], (b"x-request-id", request_id), *limits]
        await send(message)

    return stamped
