"""What a generation has cost so far, against what its recipe allows.

Counted are seconds of fusing and measuring and the bytes that rounds set out to download, over all rounds since the
last generation, the killed and the rejected ones too. The count lies in the work folder and in the status on the Hub;
whichever is larger holds, so neither a new machine nor a lost folder starts it anew. A kill loses what was spent since
the last sentence that was said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from hub_fusion.errors import BudgetSpent
from hub_fusion.events import Say
from hub_fusion.recipe import Budget
from hub_fusion.records import Status

COUNTED = ("fuse", "evaluate")  # the stages whose seconds count


class Meter:
    """The account of one generation: `spent` by ``seconds``, ``bytes`` and ``money``."""

    def __init__(self, budget: Budget, file: Path, generation: int, known: Mapping[str, float] | None = None) -> None:
        self.budget, self.file, self.generation = budget, file, generation
        kept = _read(file, generation)
        self._seconds, self._bytes = (
            max(kept.get(name, 0.0), (known or {}).get(name, 0.0)) for name in ("seconds", "bytes")
        )
        self._since: float | None = None

    @classmethod
    def open(cls, budget: Budget, work: Path, generation: int, status: Status) -> Meter:
        """The account of the next generation, as the work folder and the status know it."""
        told = status.headroom
        return cls(budget, work / "spent.json", generation,
                   told.spent if told and told.generation == generation else None)  # fmt: skip

    @property
    def spent(self) -> dict[str, float]:
        """Seconds, bytes and money so far."""
        self._advance()
        money = self._seconds / 3600 * self.budget.price_per_hour
        return {"seconds": round(self._seconds, 1), "bytes": self._bytes, "money": round(money, 4)}

    @property
    def limits(self) -> dict[str, float]:
        """What of it is limited."""
        allowed = {"seconds": self.budget.seconds, "bytes": self.budget.bytes, "money": self.budget.money}
        return {name: float(limit) for name, limit in allowed.items() if limit is not None}

    def afford(self, seconds: float | None, size_bytes: int) -> None:
        """Raise BudgetSpent unless a round of so many seconds and bytes fits into what is left."""
        price = (seconds or 0.0) / 3600 * self.budget.price_per_hour
        asked = {"seconds": seconds or 0.0, "bytes": float(size_bytes), "money": price}
        spent = self.spent
        for name, limit in self.limits.items():
            if spent[name] >= limit or spent[name] + asked[name] > limit:
                raise BudgetSpent(
                    f"gen-{self.generation} may cost {limit:g} {name} (budget.{name}); {spent[name]:g} are spent and "
                    f"the next round would take about {asked[name]:g}: raise the limit, or lower "
                    "round.max_contributions or search.evaluations"
                )

    def book(self, size_bytes: int) -> None:
        """Note bytes that are about to be downloaded."""
        self._bytes += size_bytes
        self._save()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage, if its seconds count."""
        self._since = time.monotonic() if stage in COUNTED else None
        try:
            yield
        finally:
            self._advance()
            self._since = None
            self._save()

    def watching(self, say: Say) -> Say:
        """`say`, which stops the work by BudgetSpent once the seconds are spent: all work says what it does next."""

        def said(text: str) -> None:
            say(text)
            if self._since is not None:
                spent = self.spent
                self._save()
                for name, limit in self.limits.items():
                    if name != "bytes" and spent[name] > limit:
                        raise BudgetSpent(
                            f"gen-{self.generation} may cost {limit:g} {name} (budget.{name}), and {spent[name]:g} are "
                            "spent: the work is stopped; measurements that were made are kept in the work folder"
                        )

        return said

    def _advance(self) -> None:
        if self._since is not None:
            now = time.monotonic()
            self._seconds, self._since = self._seconds + now - self._since, now

    def _save(self) -> None:
        kept = {"generation": self.generation, "seconds": self._seconds, "bytes": self._bytes}
        part = self.file.with_suffix(".part")
        with suppress(OSError):  # a full disk must not hide what the work itself will say of it
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(kept))
            part.replace(self.file)


def _read(file: Path, generation: int) -> dict[str, float]:
    """What a file keeps of a generation; nothing if it is of another one, or damaged."""
    try:
        kept = json.loads(file.read_text())
        if kept["generation"] != generation:
            return {}
        return {name: max(float(kept[name]), 0.0) for name in ("seconds", "bytes")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
