"""Reads a base's lineage from the Hub in the background, so that no visitor ever waits for the Hub.

A thread asks every five minutes, and after a failure in 30 seconds, then in twice that, up to an hour. What it found
is `Reader.data`, an immutable value that is swapped as a whole. At the start the data are those of the snapshot that
was put beside the code when the Space was deployed, if there is one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from fetch import INDEX, STATUS, Absent, Fetch, Files, Folder, Unreachable, record_path
from fields import Malformed, moment, read_json, text
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from lineage import Attempt, Index, Record, Status, Unreadable
from parsing import read_index, read_record, read_status

PERIOD_S, FIRST_RETRY_S, LAST_RETRY_S = 300.0, 30.0, 3600.0
RECORDS = 200  # records of the newest generations are kept; older ones are known from the index alone
AT_ONCE = 8  # records that are asked for at the same time
SNAPSHOT = Path(__file__).with_name("snapshot")
log = logging.getLogger("dashboard")


@dataclass(frozen=True)
class Data:
    """All that the dashboard knows; `contributors`: account → its contributions in all generations.

    `trouble` says why it is not more or not newer, since `trouble_since`; "" if all is well.
    """

    base: str
    endpoint: str
    attempts: tuple[Attempt | Unreadable, ...] = ()
    records: Mapping[int, Record | Unreadable] = field(default_factory=dict)
    status: Status | Unreadable | None = None
    read_at: datetime | None = None
    trouble: str = ""
    trouble_since: datetime | None = None
    contributors: Mapping[str, int] = field(default_factory=dict)
    root: str = ""

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
        elif snapshot.is_dir():
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
        """Ask the Hub once; whether it answered to everything. Never raises for what the Hub or a file in it says."""
        before = self.data
        hub = Fetch(before.base, before.endpoint, self._token)
        try:
            status, index = _status(hub), _index(hub)
        except Unreachable as error:
            self._fail(f"The Hub does not answer ({error}).")
            return False
        except Absent as error:
            self._fail(f"{before.base} cannot be read: not found, private or gated ({error}).")
            return False
        except Malformed as error:
            self._fail(f"The lineage cannot be read: {error}.")
            return True
        found = _filled(before, index, status, datetime.now(UTC))
        found = replace(found, records=_unchanged(before, found))
        newest = found.generations[-1:]
        if newest and newest[0].generation and newest[0].generation not in found.records:
            found = replace(found, records={**found.records, **_records(hub, newest)})
        self.data = found  # old records come one by one, the newest is what people look at
        self.first.set()
        missing = [a for a in found.generations[-RECORDS:] if a.generation and a.generation not in found.records]
        self.data = replace(found, records={**found.records, **_records(hub, missing[::-1])})
        return all(a.generation in self.data.records for a in missing)

    def _fail(self, trouble: str) -> None:
        self.data = replace(self.data, trouble=trouble, trouble_since=self.data.trouble_since or datetime.now(UTC))

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


def from_snapshot(folder: Path, empty: Data) -> Data:
    """What the snapshot says; `empty` where it says nothing or is of another base.

    It holds the files of the base as they are on the Hub, and ``snapshot.json``, ``{"base": …, "read_at": …}``.
    """
    files = Folder(folder)
    try:
        about = read_json(files.read("snapshot.json", ""))
        read_at, base = moment(about, "read_at"), text(about, "base")
        status, index = _status(files), _index(files)
    except (Malformed, Absent, Unreachable) as error:
        log.warning("the snapshot cannot be read: %s", error)
        return empty
    if base != empty.base:
        log.warning("the snapshot is of another base")
        return empty
    found = _filled(empty, index, status, read_at)
    return replace(found, records=_records(files, [a for a in found.generations[-RECORDS:] if a.generation]))


def _filled(before: Data, index: Index, status: Status | Unreadable | None, read_at: datetime) -> Data:
    """The data with what index and status say; rejected attempts are in the one or the other or both."""
    attempts = index.attempts
    if isinstance(status, Status):
        known = {a.id for a in attempts if isinstance(a, Attempt)}
        attempts += tuple(a for a in status.rejected if isinstance(a, Unreadable) or a.id not in known)
    return replace(before, attempts=attempts, status=status, read_at=read_at, trouble="", trouble_since=None,
                   contributors=index.contributors, root=index.root)  # fmt: skip


def _index(files: Files) -> Index:
    """The index; an empty one where the repository has none yet."""
    try:
        return read_index(read_json(files.read(*INDEX)))
    except Absent as error:
        if str(error) in ("EntryNotFound", "RevisionNotFound"):
            return Index()
        raise


def _status(files: Files) -> Status | Unreadable | None:
    try:
        return read_status(read_json(files.read(*STATUS)))
    except Absent:
        return None
    except Malformed as error:
        return Unreadable("status", str(error))


def _unchanged(before: Data, found: Data) -> dict[int, Record | Unreadable]:
    """Records that need not be read again: those of the same attempts, since only a withdrawal changes one."""
    old = {a.generation: (a.id, a.status) for a in before.generations}
    kept = [a.generation for a in found.generations[-RECORDS:] if old.get(a.generation) == (a.id, a.status)]
    records = ((n, before.records.get(n)) for n in kept if n is not None)
    return {n: record for n, record in records if isinstance(record, Record)}


def _records(files: Files, attempts: list[Attempt]) -> dict[int, Record | Unreadable]:
    """The records of generations, some at the same time; without those that there was no answer about."""
    silent = threading.Event()  # a Hub that did not answer once is not asked for the others

    def read(attempt: Attempt) -> Record | Unreadable | None:
        number = attempt.generation or 0
        if silent.is_set():
            return None
        try:
            return read_record(read_json(files.read(record_path(number), "main")), number)
        except Malformed as error:
            return Unreadable(attempt.name, str(error))
        except Absent as error:
            return Unreadable(attempt.name, f"its record is not there ({error})")
        except Unreachable:
            silent.set()
            return None

    with ThreadPoolExecutor(AT_ONCE, "records") as pool:
        found = zip(attempts, pool.map(read, attempts), strict=True)
        return {a.generation or 0: record for a, record in found if record is not None}
