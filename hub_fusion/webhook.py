"""An address at which the Hub tells that something happened, so that a watcher looks at once and not at its next turn.

Nothing that is told is believed beyond that: whatever arrives, the look asks the Hub itself. So a delivery that comes
twice, late or from an old recording costs at most a look. Deliveries need the secret that the webhook was made with,
compared in constant time; bodies and waits are bounded; what the watcher itself does to its base (commits, tags, the
status branch, its comments) wakes nobody. TLS is for whatever stands before it. Not covered: webhooks cannot watch all
children of a base, so looking at intervals goes on beside it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub_fusion.errors import RecipeError
from hub_fusion.events import Event, Say

MOST_BYTES = 1_000_000
PATIENCE_S = 10.0
REMEMBERED = 1000
AT_ONCE = 16
SECRET = "HUB_FUSION_WEBHOOK_SECRET"  # noqa: S105 - the name of an environment variable


class Receiver:
    """What has been told about a base: `news` is set when there is a reason to look."""

    def __init__(self, base: str, secret: str, say: Say = lambda _: None) -> None:
        if not secret:
            raise RecipeError(f"a webhook needs a secret: set {SECRET} to the one that the Hub's webhook has")
        self.base, self.say, self.news = base.lower(), say, threading.Event()
        self._secret = secret.encode()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, secret: str | None, body: bytes) -> tuple[int, str]:
        """The answer to a delivery: its status, and a word."""
        if secret is None:
            return 401, "The header X-Webhook-Secret is missing."
        if not hmac.compare_digest(secret.encode("latin-1", "replace"), self._secret):
            return 403, "The secret is another one."
        try:
            told = json.loads(body)
            name, event = told["repo"]["name"], told["event"]
            scope, action = event["scope"], event["action"]
            if not all(isinstance(text, str) for text in (name, scope, action)):
                raise TypeError("names are texts")
        except (ValueError, TypeError, KeyError, RecursionError):
            return 400, "This is no delivery of a webhook."
        digest = hashlib.sha256(body).digest()
        with self._lock:
            if digest in self._seen:
                return 200, "Seen before."
            self._seen[digest] = None
            while len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        if name.lower() == self.base and scope != "discussion":
            return 200, "Nothing to look for."
        self.say(Event("webhook", "the Hub tells of news, looking", scope=scope[:40], action=action[:20]))
        self.news.set()
        return 200, "Looking."

    @contextmanager
    def listening(self, address: str) -> Iterator[str]:
        """Take deliveries at HOST:PORT (port 0 is any free one) for as long as this lasts; gives the URL.

        Raises RecipeError for an address that is none, or that is taken.
        """
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and int(port) < 2**16):
            raise RecipeError(f"--webhook takes HOST:PORT, not {address!r}")
        try:
            server = _Server((host.strip("[]"), int(port)), self)
        except OSError as error:
            raise RecipeError(f"cannot listen on {address}: {error.strerror or error}") from None
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield f"http://{host}:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receiver: Receiver) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.receiver, self.free = receiver, threading.BoundedSemaphore(AT_ONCE)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:  # the Hub tries again
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is nobody's business."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_S
    server_version, sys_version = "hub-fusion", ""

    def handle(self) -> None:
        """One request, within `PATIENCE_S` as a whole: the time-out of a socket starts anew with each byte."""
        hang_up = threading.Timer(PATIENCE_S, self._hang_up)
        hang_up.start()
        try:
            super().handle()
        finally:
            hang_up.cancel()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            return self._answer(411, "Say how long the body is.")
        if int(length[:12]) > MOST_BYTES:
            return self._answer(413, "The body is too large.")
        body = self.rfile.read(int(length))
        if len(body) == int(length):
            self._answer(*self.server.receiver.take(self.headers.get("x-webhook-secret"), body))

    def _answer(self, status: int, word: str) -> None:
        body = word.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """What comes in is told by the receiver."""
