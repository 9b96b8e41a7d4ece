"""How fast the local Hub moves a large file, next to what loopback and disk allow.

    python benchmarks/local_hub/transfer.py [--size small] [--save]

Measured: one plain GET and one plain LFS PUT of a file over one connection by a client that does nothing but move
bytes; the same file down and up through huggingface_hub, with Xet and without. For each GB/s, the server's CPU seconds
per GB and the ratio to a floor: for GET a bare sendfile-to-recv over loopback; for PUT the same bytes received, hashed
(sha256) and written to the same disk with fsync, by a loop that does only that. Medians over runs; the server is a
process of its own. Not covered: many clients at once (see `commits.py`), cold caches, TLS.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import Row, Server, parser, report

PIECE = 1 << 20
BYTES = {"small": 64 << 20, "full": 1 << 30}


def main() -> None:
    options = parser(__doc__).parse_args()
    size = BYTES[options.size]
    with tempfile.TemporaryDirectory(prefix="bench-hub-") as scratch, Server(Path(scratch) / "hub") as server:
        folder = Path(scratch)
        source = folder / "source.bin"
        block = os.urandom(8 << 20)
        with source.open("wb") as file:
            for n in range(size // len(block)):
                file.write(n.to_bytes(8, "little") + block[8:])
        server.api.create_repo("bench/m")
        rows: list[Row] = []
        down = measure(server, options.runs, size, lambda _: loopback(source, size), own=True)
        up = measure(server, options.runs, size, lambda n: receive_hash_write(source, folder / f"floor-{n}"), own=True)
        fresh = [renumbered(source, folder / f"up-{n}.bin", n) for n in range(options.runs + 1)]
        rows.append(row("PUT, plain", measure(server, options.runs, size, lambda n: put(server, fresh[n])), up))
        server.api.upload_file(path_or_fileobj=source, path_in_repo="m.bin", repo_id="bench/m")
        rows.append(row("GET, plain", measure(server, options.runs, size, lambda _: get(server, size)), down))
        for name, env in (("Xet", {}), ("plain", {"HF_HUB_DISABLE_XET": "1"})):
            home = {**env, "HF_HOME": str(folder / f"home-{name}")}
            got = measure(server, options.runs, size, lambda _, home=home: client(server, DOWN, home))
            rows.append(row(f"huggingface_hub, down, {name}", got, down))
            fresh = [renumbered(source, path, 100 + n) for n, path in enumerate(fresh)]
            sent = measure(
                server, options.runs, size, lambda n, home=home, fresh=fresh: client(server, UP, home, str(fresh[n]))
            )
            rows.append(row(f"huggingface_hub, up, {name}", sent, up))
        floors = [{"floor": "loopback, sendfile to recv", "GB/s": down["speed"]},
                  {"floor": "loopback, sha256, write, fsync", "GB/s": up["speed"]}]  # fmt: skip
        report("transfer", options, {f"{size >> 20} MiB": rows, "Floors": floors})


def row(name: str, got: dict[str, float], floor: dict[str, float]) -> Row:
    return {
        "what": name,
        "GB/s": got["speed"],
        "of the floor": got["speed"] / floor["speed"],
        "server CPU s/GB": got["cpu"],
    }


def measure(server: Server, runs: int, size: int, once: Callable[[int], Any], *, own: bool = False) -> dict[str, float]:
    """Median speed and server CPU of `runs` runs after a warm-up. `once` may return the seconds that count."""
    speeds, cpu = [], []
    for n in range(runs + 1):
        before, began = server.cpu_s(), time.perf_counter()
        counted = once(n)
        took = counted if isinstance(counted, float) else time.perf_counter() - began
        if n or not runs:
            speeds.append(size / 1e9 / took)
            cpu.append(0.0 if own else (server.cpu_s() - before) / (size / 1e9))
    return {"speed": statistics.median(speeds), "cpu": statistics.median(cpu)}


# --- floors ----------------------------------------------------------------------------------------------------------


def loopback(source: Path, size: int) -> float:
    """Seconds to send a file to a thread that only receives."""
    ours, theirs = pair()
    with source.open("rb") as file, ours, theirs:
        sender = threading.Thread(target=lambda: ours.sendfile(file, 0, size))
        began = time.perf_counter()
        sender.start()
        drain(theirs, size)
        sender.join()
        return time.perf_counter() - began


def receive_hash_write(source: Path, target: Path) -> float:
    """Seconds to receive, hash and write a file, flushed to the disk: what no server that verifies can avoid."""
    ours, theirs = pair()
    size, buffer, digest = source.stat().st_size, bytearray(4 << 20), hashlib.sha256()
    with source.open("rb") as file, target.open("wb", buffering=0) as out, ours, theirs:
        sender = threading.Thread(target=lambda: ours.sendfile(file, 0, size))
        began = time.perf_counter()
        sender.start()
        left = size
        while left:
            got = theirs.recv_into(buffer)
            view = memoryview(buffer)[:got]
            digest.update(view)
            out.write(view)
            left -= got
        os.fsync(out.fileno())
        took = time.perf_counter() - began
        sender.join()
    target.unlink()
    return took


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


def drain(sock: socket.socket, size: int) -> None:
    buffer = bytearray(PIECE)
    while size:
        got = sock.recv_into(buffer)
        if not got:
            raise RuntimeError("the connection broke")
        size -= got


# --- a bare client ---------------------------------------------------------------------------------------------------


def get(server: Server, size: int) -> float:
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as sock:
        sock.sendall(b"GET /bench/m/resolve/main/m.bin HTTP/1.1\r\nHost: hub\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        drain(sock, size - len(head.partition(b"\r\n\r\n")[2]))
    return time.perf_counter() - began


def put(server: Server, source: Path) -> float:
    size = source.stat().st_size
    with source.open("rb") as file:
        oid = hashlib.file_digest(file, "sha256").hexdigest()
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    address = urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(address, timeout=300)
    connection.request("POST", "/bench/m.git/info/lfs/objects/batch", json.dumps(body),
                       {"Authorization": f"Bearer {server.token}"})  # fmt: skip
    href = json.loads(connection.getresponse().read())["objects"][0]["actions"]["upload"]["href"]
    path = href.partition(address)[2]
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port)) as sock, source.open("rb") as file:
        sock.sendall(f"PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {size}\r\n\r\n".encode())
        sock.sendfile(file, 0, size)
        assert b" 200 " in sock.recv(65536)
    took = time.perf_counter() - began
    connection.close()
    return took


def renumbered(source: Path, target: Path, n: int) -> Path:
    """A copy that differs in every block: for uploads of what is not there yet."""
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(1 << 20):
            new.write(bytes([n]) + os.urandom(15) + block[16:])
    return target


# --- the real client -------------------------------------------------------------------------------------------------

DOWN = """
import sys, time, tempfile
from huggingface_hub import HfApi
api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    began = time.perf_counter()
    api.hf_hub_download("bench/m", "m.bin", local_dir=folder)
    print(time.perf_counter() - began)
"""
UP = """
import sys, time
from huggingface_hub import HfApi
api = HfApi(endpoint=sys.argv[1], token=sys.argv[2])
began = time.perf_counter()
api.upload_file(path_or_fileobj=sys.argv[3], path_in_repo="up.bin", repo_id="bench/m")
print(time.perf_counter() - began)
"""


def client(server: Server, script: str, env: dict[str, str], *args: str) -> float:
    command = [sys.executable, "-c", script, server.url, server.token, *args]
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(command, env={**os.environ, **quiet, **env}, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
