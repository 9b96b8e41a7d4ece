"""What kills.py plays with: a Hub that fails, contributors who train, a watcher in a process of its own, an auditor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd

from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.demo.digits import CONTRIBUTORS, TASK_NAME, write_root, write_task
from hub_fusion.demo.training import finetune
from hub_fusion.errors import RepoMissing
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.publish.state import open_base, read_record, record_path
from hub_fusion.reproduce import reproduce
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.remote import fetch_checkpoint

BASE = "acme/digits"
PEOPLE = CONTRIBUTORS[:3]
ORPHAN_S = 20.0  # until the worker of a killed watcher counts as an orphan
STAGES = ("look", "screen", "fuse", "evaluate", "commit", "tag")
FAULTS: tuple[dict[str, Any], ...] = (
    {"route": "commit", "kind": "drop", "when": "after", "rate": 0.1},
    {"route": "commit", "kind": 503, "rate": 0.1},
    {"route": "commit", "kind": 412, "rate": 0.1},
    {"route": "tag", "kind": 503, "rate": 0.5},
    {"route": "tag", "kind": "drop", "when": "after", "rate": 0.1},
    {"route": "list", "kind": 429, "reset": 1, "rate": 0.1},
    {"route": "refs", "kind": 500, "rate": 0.04},
    {"route": "resolve", "kind": "drop", "rate": 0.02},
    {"route": "any", "kind": "timeout", "seconds": 0.3, "rate": 0.01},
    {"route": "any", "kind": 500, "rate": 0.02},
)


class Scene:
    """The base, its contributors and its Hub; `folder` holds everything that is written."""

    def __init__(self, folder: Path, hub: LocalHub, store: Path) -> None:
        self.folder, self.hub = folder, hub
        self.tokens = {name: add_user(store, name) for name in ("acme", *(c.name for c in PEOPLE))}
        self.maintainer = self.client("acme")
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": self.tokens["acme"], "HF_HOME": str(folder / "hf")}
        self.contributed: dict[int, set[str]] = {}  # generation → ``repo@sha`` of what was made for it
        self._plant()

    def client(self, account: str) -> Hub:
        """The Hub as an account sees it, with a cache of its own."""
        return Hub(self.hub.url, self.tokens[account], self.folder / "cache" / account)

    def _plant(self) -> None:
        write_root(self.folder / "root")
        write_task(self.folder / "tasks" / TASK_NAME)
        self.maintainer.create_repo(BASE)
        files = [CommitOperationAdd(p.name, p) for p in sorted((self.folder / "root").iterdir())]
        card = b"---\nlicense: apache-2.0\n---\n\n# digits\n"
        self.maintainer.commit(BASE, [*files, CommitOperationAdd("README.md", card)], "The root")
        recipe = {
            "base": BASE,
            "round": {"min_contributions": len(PEOPLE)},
            "merge": {"steps": [1.0, 0.5]},
            "gate": {"test": "means", "epsilon": 1.0, "delta": None},  # what is judged here is not the gate
            "evaluate": {"tasks": [{"name": TASK_NAME, "path": f"tasks/{TASK_NAME}"}], "seeds": 2,
                         "fewshot": {"examples": 30, "epochs": 4}, "max_test_examples": 100},
        }  # fmt: skip
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def contribute(self, generation: int) -> None:
        """Everybody trains the newest generation and publishes for the next one. No faults meanwhile."""
        source = fetch_checkpoint(self.maintainer, BASE, self.maintainer.branches(BASE)["main"])
        made = set()
        for person in PEOPLE:
            out = self.folder / "contributions" / person.name
            shutil.rmtree(out, ignore_errors=True)
            finetune(source, person, out, seed=generation, epochs=1)
            tag = f"gen-{generation - 1}" if generation > 1 else "main"
            repo = f"{person.name}/digits"
            sha = publish_contribution(out, repo, base=BASE, base_revision=tag, hub=self.client(person.name),
                                       license="apache-2.0")  # fmt: skip
            made.add(f"{repo}@{sha}")
        self.contributed[generation] = made

    def has_record(self, generation: int) -> bool:
        """Whether main holds a generation, with its tag or without."""
        return record_path(generation) in self.maintainer.files(BASE, "main")

    def watch(self) -> Watcher:
        """Start a watcher."""
        return Watcher(self)


class Watcher:
    """A running `hub-fusion watch`, as a user starts it; `events` are the lines of its log so far.

    It is two processes (docs/security.md), of which the first one is killed; the other has to end with it.
    """

    def __init__(self, scene: Scene) -> None:
        command = [sys.executable, "-m", "hub_fusion", "watch", "--recipe", scene.folder / "recipe.yaml"]
        command += ["--work", scene.folder / "work", "--interval", "0.5", "--log-format", "json"]
        self.events: list[dict[str, Any]] = []
        self.others: list[str] = []  # lines that are no JSON: of libraries
        self._came = threading.Condition()
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                        text=True)  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._came:
                try:
                    self.events.append(json.loads(line))
                except ValueError:
                    self.others.append(line)
                self._came.notify_all()

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = 300) -> dict[str, Any] | None:
        """The first event that is wanted, when it comes; None if the process ended without it."""
        seen, deadline = 0, time.monotonic() + seconds
        with self._came:
            while True:
                for event in self.events[seen:]:
                    if wanted(event):
                        return event
                seen = len(self.events)
                if not self._reader.is_alive():
                    return None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nothing of what was awaited came; the log ends with {self.events[-5:]}")
                self._came.wait(0.2)

    def kill(self) -> str:
        """SIGKILL; gives the stage that the process was in by its own words."""
        self.process.kill()
        if self.process.wait() != -signal.SIGKILL:
            raise RuntimeError(f"the watcher ended by itself: {self.events[-5:]}\n" + "".join(self.others))
        self._reader.join(ORPHAN_S)  # ends when nobody holds the pipe any more
        if self._reader.is_alive():
            raise RuntimeError("the watcher was killed, and a process that it started lives on")
        named = [event["event"] for event in self.events if event["event"] not in ("note", "unreachable")]
        return named[-1] if named else "start"


def audit(scene: Scene, generations: int, compute: Compute) -> dict[str, int]:
    """What the Hub holds in the end: doubles, gaps, and generations whose bytes come again from their record."""
    hub, gaps, doubles, equal = scene.maintainer, 0, 0, 0
    state = open_base(hub, BASE, mend=False)
    tags, commits = hub.tags(BASE), hub.commits(BASE)
    added = Counter(c.title.partition(":")[0] for c in commits if c.title.startswith("Generation "))
    doubles += sum(count - 1 for count in added.values())
    numbers = Counter(e.generation for e in state.index.entries if e.generation is not None)
    doubles += sum(count - 1 for count in numbers.values())
    seen: Counter[str] = Counter()
    for n in range(1, generations + 1):
        tag = f"gen-{n}"
        try:
            record = read_record(hub, BASE, n, tags[tag])
        except (KeyError, RepoMissing):
            gaps += 1
            continue
        fused = {c.key for c in record.contributions}
        seen.update(fused)
        follows = record.parent_generation == n - 1 and record.parent_revision == tags.get(f"gen-{n - 1}")
        gaps += not (follows and fused == scene.contributed[n] and numbers[n] == 1)
        equal += reproduce(hub, BASE, tag, compute, scene.folder / "again").equal
    doubles += sum(count - 1 for count in seen.values()) + len(set(tags) - {f"gen-{n}" for n in range(generations + 1)})
    return {"generations": state.generation, "duplicates": doubles, "gaps": gaps, "reproduced": equal}
