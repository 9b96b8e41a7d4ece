"""Start and stop: the server in a thread for tests and demos, or in the foreground for `hub serve`."""

import ipaddress
import signal
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import uvicorn

    from hub_fusion.local_hub.deliveries import Sender
    from hub_fusion.local_hub.fault_rules import Spec
    from hub_fusion.local_hub.faults import Faults
    from hub_fusion.local_hub.limits import Limits
    from hub_fusion.local_hub.store import Store

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class LocalHub:
    """A running Hub: `url` is what HF_ENDPOINT wants; `stop()`, or leave its `with` block, to end it.

    `limits` and `faults` can be `set` anew at any time; `faults.log` tells which faults were injected.
    """

    def __init__(
        self, root: Path, host: str, port: int, limits: Mapping[str, str] | None = None, faults: "Spec" = None
    ) -> None:
        self.root = root
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        try:
            self._parts = _assemble(root, host, limits, faults)
        except BaseException:
            self._socket.close()
            raise
        self.limits, self.faults = self._parts.limits, self._parts.faults
        self._server = self._parts.server
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="local-hub", daemon=True
        )

    def start(self) -> "LocalHub":
        """Return once requests are answered."""
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"The local Hub did not start on {self.url}; its log says why.")
            time.sleep(0.005)
        self._parts.sender.start()
        return self

    def stop(self) -> None:
        """End the server and close the store; a second call does nothing."""
        self.faults.close()
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()
        self._parts.close()

    def __enter__(self) -> "LocalHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Mapping[str, str] | None = None,
    faults: "Spec" = None,
) -> LocalHub:
    """Start a Hub over the folder `root` in a thread; port 0 takes a free one. Stop the handle when done.

    `limits`: requests per seconds and bucket, ``{"api": "1000/300"}``, see `limits`. `faults`: rules or a file of them,
    see `faults`. Raises ValueError where they make no sense, and for a host that others can reach without an account.
    """
    return LocalHub(Path(root), host, port, limits, faults).start()


def run(
    root: Path,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: Mapping[str, str] | None = None,
    faults: "Spec" = None,
    faults_log: Path | None = None,
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; prints the URL once it listens. `faults_log`: JSON lines."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener, parts = _listen(host, port), None
    try:
        parts = _assemble(Path(root), host, limits, faults, faults_log)
        server = parts.server
        # an exception out of a handler can be lost while uvicorn starts; a flag is seen whenever it is set
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
        parts.sender.start()
        print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
        parts.server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has stopped
        pass
    finally:
        listener.close()
        if parts is not None:
            parts.close()
        signal.signal(signal.SIGTERM, previous)


class _Parts(NamedTuple):
    server: "uvicorn.Server"
    store: "Store"
    sender: "Sender"
    limits: "Limits"
    faults: "Faults"

    def close(self) -> None:
        self.sender.stop()
        self.faults.close()
        self.store.close()


def _assemble(
    root: Path, host: str, limits: Mapping[str, str] | None, faults: "Spec", faults_log: Path | None = None
) -> _Parts:
    import uvicorn

    from hub_fusion.local_hub.app import build_app
    from hub_fusion.local_hub.connections import MAX_CONNECTIONS, Connection
    from hub_fusion.local_hub.deliveries import Sender
    from hub_fusion.local_hub.faults import Faults
    from hub_fusion.local_hub.limits import Limits
    from hub_fusion.local_hub.store import Store

    store = Store(root)
    try:
        _refuse_open_door(host, store)
        limiting, faulty = Limits(limits), Faults(store, faults, faults_log)
    except BaseException:
        store.close()
        raise
    config = uvicorn.Config(
        build_app(store, limiting, faulty),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http=Connection,  # over h11, whatever else is installed: `stream` sends files through it
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    return _Parts(uvicorn.Server(config), store, Sender(store), limiting, faulty)


def _refuse_open_door(host: str, store: "Store") -> None:
    """Beyond this machine a Hub without accounts could be read by everybody and written by nobody: a mistake."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if local:
        return
    with store.db.read() as con:
        if con.execute("SELECT 1 FROM tokens").fetchone() is None:
            raise ValueError(
                f"Serving on {host or 'all addresses'} lets other machines in, and there is no account yet: make"
                " one with `hub-fusion hub user add NAME --root …` first, or serve on 127.0.0.1."
            )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by accepted connections
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
