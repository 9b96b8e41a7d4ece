"""Carries out the faults that `faults` chose.

A fault "before" never reaches the handler; one "after" is told to the client, or not, once the handler has answered,
when everything that its answer promises is on disk. Nothing here can undo or half-do a change.
"""

import asyncio
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hub_fusion.local_hub.call import STORE, TAGS_UNTIL, error_response, refuse
from hub_fusion.local_hub.commits import STALE
from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.faults import Fault
from hub_fusion.local_hub.stream import RAW_SEND

TICK_S = 0.05


async def carry_out(fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the request as the fault has it."""
    kind, rule = fault.rule.kind, fault.rule
    if kind == "stale":
        fault.note()
        with fault.faults.past.at(rule.seconds or 0) as store:
            await app({**scope, STORE: store}, receive, send)
    elif kind == "tag-lag":
        fault.note()
        await app({**scope, TAGS_UNTIL: now_ms() - int((rule.seconds or 0) * 1000)}, receive, send)
    elif kind in ("slow", "cut"):
        await _spoil_body(fault, app, scope, receive, send)
    else:
        if rule.when == "after":
            fault.note(await _answer_unheard(app, scope, receive))
        else:
            fault.note()
        if kind in ("drop", "timeout"):
            if kind == "timeout":
                await _wait(fault, rule.seconds or 0, receive)
            await _hang_up(scope, receive)
        elif rule.when == "after":
            await error_response(_refusal(fault))(scope, receive, send)
        else:
            await refuse(_refusal(fault), scope, receive, send)


def _refusal(fault: Fault) -> HubError:
    rule = fault.rule
    if rule.kind == "412":
        return HubError(412, STALE)
    headers = {}
    if rule.retry_after is not None:
        headers["Retry-After"] = str(rule.retry_after)
    if rule.reset is not None:
        headers["RateLimit"] = f'"api";r=0;t={rule.reset}'
        headers["RateLimit-Policy"] = '"fixed window";"api";q=1000;w=300'
    return HubError(int(rule.kind), f"A fault on purpose: rule {fault.place} answers {rule.kind}.", headers=headers)


async def _answer_unheard(app: ASGIApp, scope: Scope, receive: Receive) -> int:
    """Let the request be carried out; gives the status that the client is not told."""
    status = 0

    async def note(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await app({key: value for key, value in scope.items() if key != RAW_SEND}, receive, note)
    return status


async def _spoil_body(fault: Fault, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Send the headers as they are, the body in trickles, or less of it than the headers say."""
    left = 0
    rule = fault.rule

    async def spoilt(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.start":
            fault.note(message["status"])
            length = int(dict(message["headers"]).get(b"content-length", b"0"))
            left = min(length // 2 if rule.bytes is None else rule.bytes, max(length - 1, 0))
            await send(message)
        elif rule.kind == "slow":
            await _trickle(fault, scope, message, send)
        elif left:
            piece, left = message.get("body", b"")[:left], left - len(message.get("body", b"")[:left])
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    await app({key: value for key, value in scope.items() if key != RAW_SEND}, receive, spoilt)
    if rule.kind == "cut":
        await _hang_up(scope, receive)


async def _trickle(fault: Fault, scope: Scope, message: Message, send: Send) -> None:
    body, rate = message.get("body", b""), fault.rule.bytes_per_s or 1
    step = max(int(rate * TICK_S), 1)
    for at in range(0, len(body), step):
        if fault.faults.closed or _cycle(scope).disconnected:
            break
        await send({"type": "http.response.body", "body": body[at : at + step], "more_body": True})
        await asyncio.sleep(step / rate)
    else:
        await send({**message, "body": b""})
        return
    if not _cycle(scope).disconnected:  # the server stops: better a short body than a wrong one
        _cycle(scope).transport.close()


async def _wait(fault: Fault, seconds: float, receive: Receive) -> None:
    """Be silent for so long, or until the client has given up."""
    end = time.monotonic() + seconds
    gone = asyncio.ensure_future(_gone(receive))
    while not gone.done() and not fault.faults.closed and time.monotonic() < end:
        await asyncio.wait({gone}, timeout=TICK_S)
    gone.cancel()


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Close the connection after what has been sent, and return when the server has noticed."""
    _cycle(scope).transport.close()
    await _gone(receive)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _cycle(scope: Scope) -> Any:
    """uvicorn's state of this request."""
    return scope[RAW_SEND].__self__
