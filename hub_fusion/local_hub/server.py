"""Start and stop: the server in a thread for tests and demos, or in the foreground for `hub serve`."""

import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn

    from hub_fusion.local_hub.deliveries import Sender
    from hub_fusion.local_hub.store import Store

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class LocalHub:
    """A running Hub: `url` is what HF_ENDPOINT wants; `stop()`, or leave its `with` block, to end it."""

    def __init__(self, root: Path, host: str, port: int) -> None:
        self.root = root
        self._socket = _listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._server, self._store, self._sender = _server(root)
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
        self._sender.start()
        return self

    def stop(self) -> None:
        """End the server and close the store; a second call does nothing."""
        if self._thread.is_alive():
            self._server.should_exit = True
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                self._server.force_exit = True
                self._thread.join(STOP_TIMEOUT_S)
        self._socket.close()
        self._sender.stop()
        self._store.close()

    def __enter__(self) -> "LocalHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def serve(root: Path, *, host: str = "127.0.0.1", port: int = 0) -> LocalHub:
    """Start a Hub over the folder `root` in a thread; port 0 takes a free one. Stop the handle when done."""
    return LocalHub(Path(root), host, port).start()


def run(root: Path, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; prints the URL once it listens."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    listener, store, sender = _listen(host, port), None, None
    try:
        server, store, sender = _server(Path(root))
        sender.start()
        print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again once it has stopped
        pass
    finally:
        listener.close()
        if sender is not None:
            sender.stop()
        if store is not None:
            store.close()
        signal.signal(signal.SIGTERM, previous)


def _server(root: Path) -> tuple["uvicorn.Server", "Store", "Sender"]:
    import uvicorn

    from hub_fusion.local_hub.app import build_app
    from hub_fusion.local_hub.deliveries import Sender
    from hub_fusion.local_hub.store import Store

    store = Store(root)
    config = uvicorn.Config(
        build_app(store),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",  # whatever else is installed: `stream` sends files through it
        timeout_keep_alive=60,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    return uvicorn.Server(config), store, Sender(store)


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
