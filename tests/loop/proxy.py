"""A forwarding HTTP proxy between a client and a Hub, so that a test can act at an exact request.

It keeps the Host header, so the Hub's links lead through it too. Bodies are held in memory: for small models only.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

CHANGES = ("POST", "PUT", "DELETE")
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
Hook = Callable[["Request"], bool]  # False: hang up


class Request:
    """A request that may change something: the `number`-th, counted from 1."""

    def __init__(self, number: int, method: str, path: str, body: bytes) -> None:
        self.number, self.method, self.path, self.body = number, method, path, body

    def __repr__(self) -> str:
        return f"{self.number} {self.method} {self.path}"

    @property
    def is_commit(self) -> bool:
        return "/commit/" in self.path

    @property
    def is_tag(self) -> bool:
        return "/tag/" in self.path


class Proxy:
    """`url` is what the client uses; `seen` are the changing requests in their order."""

    def __init__(self, target: str, before: Hook, after: Hook) -> None:
        self.target, self.before, self.after = urlsplit(target).netloc, before, after
        self.seen: list[Request] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def note(self, method: str, path: str, body: bytes) -> Request:
        with self.lock:
            self.seen.append(Request(len(self.seen) + 1, method, path, body))
            return self.seen[-1]


@contextmanager
def forwarding(target: str, before: Hook = lambda _: True, after: Hook = lambda _: True) -> Iterator[Proxy]:
    """Forward to `target`; `before` and `after` are called around every request that may change something."""
    proxy = Proxy(target, before, after)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """The proxy is silent."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the client is dead: that is what the proxy is for

        def forward(self) -> None:
            body = self.body()
            changes = self.command in CHANGES
            request = proxy.note(self.command, self.path, body) if changes else None
            if request and not proxy.before(request):
                return self.hang_up()
            connection = http.client.HTTPConnection(proxy.target, timeout=60)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
                if body or changes:
                    headers["Content-Length"] = str(len(body))
                connection.request(self.command, self.path, body=body or None, headers=headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if request and not proxy.after(request):
                return self.hang_up()
            self.send_response_only(answer.status, answer.reason)
            for key, value in answer.getheaders():
                if key.lower() not in HOP_BY_HOP:
                    self.send_header(key, value)
            length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
            if length is not None and answer.status != 204:
                self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data)

        def hang_up(self) -> None:
            self.close_connection = True

        def body(self) -> bytes:
            if "chunked" in self.headers.get("transfer-encoding", ""):
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)
            return self.rfile.read(int(self.headers.get("content-length", 0)))

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = forward

    return Handler
