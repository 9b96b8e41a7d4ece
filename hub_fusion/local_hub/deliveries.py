"""Sends what `events` wrote down: one thread that looks for deliveries that are due, and one for each on its way.

At least once: a delivery stays pending until its receiver answered 2xx or `MAX_TRIES` were made, whatever happens to
the server in between. Redirects are not followed and answers are not read beyond their headers; a webhook has one
delivery on its way at a time, so that a slow receiver delays itself only.
"""

import http.client
import logging
import socket
import sqlite3
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

from hub_fusion.local_hub.db import now_ms
from hub_fusion.local_hub.store import Store

log = logging.getLogger(__name__)
MAX_TRIES, FIRST_WAIT_S, WAIT_FACTOR = 6, 1, 4  # 1 s, 4 s, … 256 s: six minutes in all
TIMEOUT_S = 5.0
MAX_ON_THEIR_WAY = 16
KEPT_PER_WEBHOOK = 500
LOOK_EVERY_S = 0.25
DUE = """
SELECT deliveries.*, url, secret, MIN(due) FROM deliveries JOIN webhooks ON webhooks.id=deliveries.webhook
WHERE status='pending' AND due<=? AND disabled=0 AND url IS NOT NULL GROUP BY webhook"""


class Sender:
    """Sends the deliveries of a store between `start` and `stop`."""

    def __init__(self, store: Store) -> None:
        self._db = store.db
        self._stopped = threading.Event()
        self._on_their_way: dict[int, threading.Thread] = {}
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)

    def start(self) -> "Sender":
        """Begin with what was left pending."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Wait for those on their way, at most about `TIMEOUT_S`; the others stay pending."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT_S)
        deadline = time.monotonic() + TIMEOUT_S + 1
        for thread in list(self._on_their_way.values()):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_S):
            try:
                self._send_due()
            except Exception:
                log.exception("deliveries could not be looked up")

    def _send_due(self) -> None:
        with self._db.read() as con:
            rows = con.execute(DUE, (now_ms(),)).fetchall()
        self._on_their_way = {key: thread for key, thread in self._on_their_way.items() if thread.is_alive()}
        for row in rows:
            if row["webhook"] not in self._on_their_way and len(self._on_their_way) < MAX_ON_THEIR_WAY:
                thread = threading.Thread(target=self._send, args=(row,), name="delivery", daemon=True)
                self._on_their_way[row["webhook"]] = thread
                thread.start()

    def _send(self, row: sqlite3.Row) -> None:
        status, error = None, None
        try:
            status = post(row["url"], row["payload"].encode(), row["secret"])
            error = None if 200 <= status < 300 else f"The receiver answered {status}."
        except (OSError, http.client.HTTPException, ValueError) as failure:
            error = f"{type(failure).__name__}: {failure}"[:500]
        tries, now = row["attempts"] + 1, now_ms()
        outcome = "delivered" if error is None else "failed" if tries >= MAX_TRIES else "pending"
        wait_ms = FIRST_WAIT_S * WAIT_FACTOR ** (tries - 1) * 1000
        finished = None if outcome == "pending" else now
        with self._db.write() as con:
            con.execute(
                "UPDATE deliveries SET status=?, attempts=?, due=?, finished=?, answer=?, error=? WHERE id=?",
                (outcome, tries, now + wait_ms, finished, status, error, row["id"]),
            )
            forget_old(con, row["webhook"])


def forget_old(con: sqlite3.Connection, webhook: int) -> None:
    """Keep the latest `KEPT_PER_WEBHOOK` deliveries, and those that are pending."""
    con.execute(
        "DELETE FROM deliveries WHERE webhook=? AND status!='pending' AND id<=(SELECT id FROM deliveries"
        " WHERE webhook=? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (webhook, webhook, KEPT_PER_WEBHOOK),
    )


def post(url: str, body: bytes, secret: str | None) -> int:
    """The status a receiver answers within `TIMEOUT_S`; OSError, HTTPException."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    headers = {"Content-Type": "application/json", "User-Agent": "hub-fusion-local-hub"}
    if secret is not None:
        headers["X-Webhook-Secret"] = secret
    hang_up = threading.Timer(TIMEOUT_S, _hang_up, [connection])  # the time-out of a socket starts anew with each byte
    hang_up.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body, headers)
        return connection.getresponse().status
    finally:
        hang_up.cancel()
        connection.close()


def _hang_up(connection: http.client.HTTPConnection) -> None:
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
