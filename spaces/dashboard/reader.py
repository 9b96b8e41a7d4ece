"""Reads a base's lineage from the Hub in the background, so that no visitor ever waits for the Hub.

A thread asks every five minutes, and after a failure in 30 seconds, then in twice that, up to an hour. What it found
is `Reader.data`, an immutable value that is swapped as a whole. huggingface_hub's own downloads repeat a failed request
for 23 seconds; here every file has 5 seconds, once.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub import hf_hub_url
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session, httpx, validate_repo_id
from lineage import Attempt, Malformed, Record, Status, Unreadable, read_index, read_json, read_record, read_status

INDEX, STATUS = ("fusion/index.json", "main"), ("fusion/status.json", "fusion-status")
PERIOD_S, FIRST_RETRY_S, LAST_RETRY_S = 300.0, 30.0, 3600.0
TIMEOUT_S = 5.0
MAX_BYTES = 5_000_000
RECORDS = 20  # records of the newest generations are kept; older ones are known from the index alone
SNAPSHOT = Path(__file__).with_name("snapshot.json")
log = logging.getLogger("dashboard")


class Unreachable(Exception):
    """The Hub did not give an answer that means anything."""


class Absent(Exception):
    """The Hub says that there is no such file, revision or repository, or not for us; the message is its error code."""


@dataclass(frozen=True)
class Data:
    """All that the dashboard knows. `trouble` says why it is not more or not newer; "" if all is well."""

    base: str
    endpoint: str
    attempts: tuple[Attempt | Unreadable, ...] = ()
    records: Mapping[int, Record | Unreadable] = field(default_factory=dict)
    status: Status | Unreadable | None = None
    read_at: datetime | None = None
    trouble: str = ""

    @property
    def generations(self) -> list[Attempt]:
        """The generations that can be read, gen-0 first."""
        known = [a for a in self.attempts if isinstance(a, Attempt) and a.generation is not None]
        return sorted(known, key=lambda a: a.generation or 0)


class Reader:
    """The data of one base, and the thread that renews it."""

    def __init__(self, base: str, endpoint: str, *, token: str | None = None, snapshot: Path = SNAPSHOT) -> None:
        self.data = Data(base, endpoint)
        self.first = threading.Event()  # set when the Hub was asked once, whatever it said
        self._token = token
        try:
            validate_repo_id(base)
            valid = base.count("/") == 1 and endpoint.startswith(("http://", "https://"))
        except HFValidationError:
            valid = False
        if not valid:
            self.data = Data("", "", trouble="Set HUB_FUSION_BASE to the base's repository, account/name, and "
                             "HF_ENDPOINT to a URL or not at all.")  # fmt: skip
        elif snapshot.is_file():
            self.data = from_snapshot(snapshot, self.data)

    @classmethod
    def from_environment(cls) -> Reader:
        """The base and the Hub that the environment names."""
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        token = os.environ.get("HUB_FUSION_READ_TOKEN") or None
        return cls(os.environ.get("HUB_FUSION_BASE", ""), endpoint.rstrip("/"), token=token)

    def start(self) -> None:
        """Ask the Hub from now on."""
        if self.data.base:
            threading.Thread(target=self._run, name="reader", daemon=True).start()
        else:
            self.first.set()

    def refresh(self) -> bool:
        """Ask the Hub once; whether it answered. Never raises for what the Hub or a file in it says."""
        before = self.data
        try:
            status = self._status()
            attempts = self._index()
            attempts += _only_in_status(status, attempts)
        except Unreachable as error:
            self.data = replace(before, trouble=f"The Hub does not answer ({error}).")
            return False
        except Absent as error:
            self.data = replace(before, trouble=f"{before.base} cannot be read: not found, private or gated ({error}).")
            return False
        except Malformed as error:
            self.data = replace(before, trouble=f"The lineage cannot be read: {error}.")
            return True
        found = replace(before, attempts=attempts, status=status, read_at=datetime.now(UTC), trouble="")
        self.data = replace(found, records=self._records(found))
        return True

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                failures = 0 if self.refresh() else failures + 1
            except Exception:  # the thread must outlive whatever nobody thought of
                log.exception("refresh failed")
                failures += 1
            self.first.set()
            time.sleep(min(FIRST_RETRY_S * 2 ** min(failures - 1, 20), LAST_RETRY_S) if failures else PERIOD_S)

    def _index(self) -> tuple[Attempt | Unreadable, ...]:
        """The attempts of the index; none where the repository has no index yet."""
        try:
            return read_index(read_json(self._fetch(*INDEX)))
        except Absent as error:
            if str(error) in ("EntryNotFound", "RevisionNotFound"):
                return ()
            raise

    def _status(self) -> Status | Unreadable | None:
        try:
            return read_status(read_json(self._fetch(*STATUS)))
        except Absent:
            return None
        except Malformed as error:
            return Unreadable("status", str(error))

    def _records(self, data: Data) -> dict[int, Record | Unreadable]:
        """Records of the newest generations; those that were read before are not read again, they never change."""
        ids = {a.generation: a.id for a in self.data.generations}
        records: dict[int, Record | Unreadable] = {}
        answers = True
        for attempt in reversed(data.generations[-RECORDS:]):
            number = attempt.generation
            if not number:  # gen-0 was not fused
                continue
            known = self.data.records.get(number)
            if isinstance(known, Record) and ids.get(number) == attempt.id:
                records[number] = known
            elif answers:
                try:
                    records[number] = read_record(read_json(self._fetch(f"fusion/gen-{number}.json", "main")), number)
                except (Malformed, Absent) as error:
                    records[number] = Unreadable(attempt.name, str(error))
                except Unreachable:
                    answers = False
        return records

    def _fetch(self, path: str, revision: str) -> bytes:
        """The file's content. Raises Unreachable, Absent, or Malformed if it is too large."""
        url = hf_hub_url(self.data.base, path, revision=revision, endpoint=self.data.endpoint)
        headers = build_hf_headers(token=self._token or False, library_name="hub_fusion-dashboard")
        until, parts, size = time.monotonic() + TIMEOUT_S, [], 0
        try:
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as answer:
                if answer.status_code in (401, 403, 404):
                    raise Absent(answer.headers.get("X-Error-Code") or f"HTTP {answer.status_code}")
                if answer.status_code != 200:
                    raise Unreachable(f"HTTP {answer.status_code}")
                for part in answer.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_BYTES:
                        raise Malformed(f"{path} is larger than {MAX_BYTES // 1_000_000} MB")
                    if time.monotonic() > until:
                        raise Unreachable(f"{path} took more than {TIMEOUT_S:.0f} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreachable(type(error).__name__) from None
        return b"".join(parts)


def from_snapshot(path: Path, empty: Data) -> Data:
    """What the snapshot says, or `empty` with the reason why it says nothing."""
    try:
        data = read_json(path.read_bytes())
        read_at = datetime.fromisoformat(str(data.get("read_at"))).astimezone(UTC)
        status = None if data.get("status") is None else read_status(data["status"])
        attempts = read_index(read_json(json.dumps(data.get("index"))))
        records = {
            int(n): read_record(read_json(json.dumps(r)), int(n)) for n, r in data.get("generations", {}).items()
        }
    except (OSError, OverflowError, ValueError, AttributeError, TypeError) as error:  # Malformed is a ValueError
        log.warning("snapshot.json cannot be read: %s", error)
        return empty
    return replace(
        empty, attempts=attempts + _only_in_status(status, attempts), records=records, status=status, read_at=read_at
    )


def _only_in_status(
    status: Status | Unreadable | None, attempts: tuple[Attempt | Unreadable, ...]
) -> tuple[Attempt | Unreadable, ...]:
    """Rejected attempts that the index does not hold yet."""
    if not isinstance(status, Status):
        return ()
    known = {a.id for a in attempts if isinstance(a, Attempt)}
    return tuple(a for a in status.rejected if isinstance(a, Unreadable) or a.id not in known)
