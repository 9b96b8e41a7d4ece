"""Faults on purpose, so that clients can be tested against what a Hub does on a bad day.

A file (YAML or JSON) or a mapping holds rules; each names requests, how often they are hit, and by what:

    seed: 7
    rules:
      - {route: commit, kind: drop, when: after, times: 1}   # the commit happens, the client never learns of it
      - {route: "GET /api/models/acme/*", kind: 503, rate: 0.2}

Rules are asked in order and the first that hits decides. The n-th request that a rule is asked about is hit or not by
the seed, the rule's place and n alone, so that one order of requests always meets the same faults. Every hit is noted
in `Faults.log`. `fault_rules` reads them, this module chooses, `inject` carries out.
"""

import json
import random
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hub_fusion.local_hub.fault_rules import Rule, Spec, read
from hub_fusion.local_hub.past import Past
from hub_fusion.local_hub.store import Store

MAX_LOG = 100_000


class Hit(NamedTuple):
    """A fault that was injected: which rule (counted from 0) and on what. `status`: of the answer that was lost."""

    rule: int
    kind: str
    when: str
    method: str
    path: str
    status: int | None = None


@dataclass(frozen=True)
class Fault:
    """A rule that hits a request; `faults` takes note of it."""

    faults: "Faults"
    place: int
    rule: Rule
    method: str
    path: str

    def note(self, status: int | None = None) -> None:
        """Write it down, before the client can see anything of it."""
        self.faults.note(Hit(self.place, self.rule.kind, self.rule.when, self.method, self.path, status))


class Faults:
    """The rules in force. Chosen from in the event loop; `set` and `log` may be used from any thread."""

    def __init__(self, store: Store, spec: Spec = None, log_file: Path | None = None) -> None:
        self.past = Past(store)
        self.log: deque[Hit] = deque(maxlen=MAX_LOG)
        self.closed = False
        self._log_file = log_file
        self.set(spec)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def set(self, spec: Spec) -> None:
        """Put other rules in force, counted from now on; None ends all. Raises ValueError for malformed rules."""
        self._seed, self._rules = read(spec)
        self._asked, self._hits = [0] * len(self._rules), [0] * len(self._rules)
        self.past.keep(max((rule.seconds or 0 for rule in self._rules if rule.kind == "stale"), default=0))

    def choose(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any."""
        for place, rule in enumerate(self._rules):
            if not rule.matches(method, path):
                continue
            n = self._asked[place]
            self._asked[place] += 1
            if n < rule.after or (rule.times is not None and self._hits[place] >= rule.times):
                continue
            if random.Random(f"{self._seed}:{place}:{n}").random() < rule.rate:  # noqa: S311 - to be repeatable
                self._hits[place] += 1
                return Fault(self, place, rule, method, path)
        return None

    def note(self, hit: Hit) -> None:
        """Into the log, and as a line of JSON into the log's file if there is one."""
        self.log.append(hit)
        if self._log_file is not None:
            with self._log_file.open("a") as file:
                file.write(json.dumps(hit._asdict()) + "\n")

    def close(self) -> None:
        """End all faults, those that clients are waiting in as well."""
        self.closed = True
        self.set(None)
