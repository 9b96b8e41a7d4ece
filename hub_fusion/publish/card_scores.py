"""Where a generation stands: its scores beside those of its ancestors, said in Markdown for the card.

Only scores of the same suite are subtracted from each other. The headline is the report role where it was measured (the
gate chose by the gate role, so that one flatters) and few-shot finetuning before the probe.
"""

from __future__ import annotations

from hub_fusion.publish.front_matter import PROTOCOLS
from hub_fusion.publish.markdown import md, percent, table
from hub_fusion.records import Estimate, Generation, Index, IndexEntry, Score, Scores, data_name

HEADLINES = [(role, protocol) for role in ("report", "gate") for protocol in ("fewshot", "probe")]
RECENT = 10
NOTICED = (1.96 + 0.84) / 1.96  # half intervals: a loss of so many is certain in four of five cases
ROLES = {"gate": "gate examples", "report": "examples that the gate never saw", "seen": "tasks that were trained on"}


class Standing:
    """A record's scores, and the generations up to it."""

    def __init__(self, record: Generation, index: Index) -> None:
        self.record = record
        entries = [e for e in index.generations if (e.generation or 0) < record.generation]
        self.entries: list[IndexEntry] = [*entries, record.to_entry()]
        self.scores: Scores | None = record.candidate_scores
        measured = {(s.role, s.protocol): s for s in self.scores.means} if self.scores else {}
        self.keys = [key for key in HEADLINES if key in measured] + sorted(set(measured) - set(HEADLINES))
        self.key = self.keys[0] if self.keys else None
        self.headline: Score | None = measured[self.key] if self.key else None
        self.tainted = {found.task for found in record.contaminated}
        self.rejected = sum(
            e.status == "rejected" and e.parent_generation == record.parent_generation for e in index.entries
        )

    @property
    def parent(self) -> str:
        """``gen-N`` of the parent, or ""."""
        return "" if self.record.parent_generation is None else f"gen-{self.record.parent_generation}"

    def result(self) -> str:
        """How good it is and how much better than gen-0 and its parent, in one sentence; "" if it was not measured."""
        best = self.headline
        if best is None or self.scores is None:
            return ""
        tasks = {s.task for s in self.scores.tasks if (s.role, s.protocol) == self.key and s.task}
        text = f"Mean accuracy over {len(tasks)} held-out tasks" if len(tasks) > 1 else "Mean accuracy"
        text += f", {md(PROTOCOLS.get(best.protocol, best.protocol))}, {ROLES[best.role]}: "
        text += f"**{percent(best.mean)}** (95 % interval {_range(best)})"
        first = self._mean(self.entries[0])
        if first is not None and self.entries[0].generation == 0 and self.parent != "gen-0" and self.record.generation:
            text += f", {percent(best.mean - first, sign=True)} over gen-0"
        change = next((d for d in self.record.differences if (d.role, d.protocol) == self.key), None)
        if change is not None and self.parent:
            text += f", {percent(change.mean, sign=True)} over {self.parent} ({_range(change, sign=True)}"
            text += "; the interval holds 0, so this may be chance)" if change.low <= 0 <= change.high else ")"
        return text + "."

    def note(self) -> str:
        """How to read the tables; "" if nothing was measured."""
        if self.scores is None or not self.keys:
            return ""
        text = (
            "Accuracy in percent with its 95 % bootstrap interval, mean over the tasks. The gate decides by the gate "
        )
        text += "examples; the report examples are kept out of every decision." if self._has("report") else "examples."
        if self.record.verdict and self.record.verdict.reason:
            text += f" What it said: {md(self.record.verdict.reason, 240)}."
        if self.rejected:
            text += f" It rejected {self.rejected} other attempt{'s' if self.rejected > 1 else ''} from {self.parent}."
        told = (self.contamination(), self.power(), self.control(), self.retention(), self.canaries())
        text += "".join(f" {sentence}" for sentence in told if sentence)
        if any(e.scores and e.suite != self.scores.suite for e in self.entries):
            text += " Generations marked † were measured with another suite and do not compare."
        return text

    def control(self) -> str:
        """How it compares with a random step of equal length, in one sentence; "" if that was not measured."""
        control = self.record.control
        found = {(d.role, d.protocol): d for d in control.differences} if control else {}
        key = next((key for key in self.keys if key in found), None)
        if key is None:
            return ""
        change = found[key]
        how = "better" if change.low > 0 else "worse" if change.high < 0 else "not distinguishable"
        where = f"{md(PROTOCOLS.get(key[1], key[1]))}, {ROLES[key[0]]}"
        text = f"A random step from {self.parent} of the same length in every tensor ({where}): this generation is "
        text += f"{percent(change.mean, sign=True)} beside it ({_range(change, sign=True)}), {how}. "
        text += "A merge that does not beat random steps has shown nothing"
        return text + (" by this protocol." if how != "better" else ".")

    def retention(self) -> str:
        """What became of the tasks that contributors trained on, in one sentence; "" if that was not measured."""
        mean = next((r for r in self.record.retention if r.task is None), None)
        if mean is None or mean.protocol not in PROTOCOLS:
            return ""
        tasks = [r for r in self.record.retention if r.task]
        text = f"On {len(tasks)} task{'s' if len(tasks) > 1 else ''} that contributors trained on "
        text += f"({PROTOCOLS[mean.protocol]}): {percent(mean.over_parent.mean, sign=True)} over {self.parent} "
        text += f"({_range(mean.over_parent, sign=True)})"
        if self.parent != "gen-0":
            text += f", {percent(mean.over_root.mean, sign=True)} over gen-0 ({_range(mean.over_root, sign=True)})"
        lost = [md(r.task or "") for r in tasks if r.over_root.high < 0]
        return text + (f"; certainly worse than gen-0 on {', '.join(lost[:10])}." if lost else ".")

    def canaries(self) -> str:
        """Whether inputs that the maintainers keep back behave as before, in one sentence; "" if there are none."""
        checks = self.record.verdict.canaries if self.record.verdict else ()
        if not checks:
            return ""
        gone = len({key for check in checks for key in check.tripped_by})
        text = f"Inputs that the maintainers keep back behave as in {self.parent} within what is allowed "
        text += f"(canaries {', '.join(md(check.name) for check in checks[:10])})"
        return text + (f"; {gone} contribution{'s' if gone > 1 else ''} with which they did not "
                       f"{'were' if gone > 1 else 'was'} left out." if gone else ".")  # fmt: skip

    def power(self) -> str:
        """The smallest loss that the gate would have noticed in four of five cases; "" if it cannot be told."""
        rule = next((r for r in self.record.verdict.rules if r.name == "parent"), None) if self.record.verdict else None
        if rule is None or rule.low is None or rule.high is None or rule.high == rule.low:
            return ""
        drop = NOTICED * (rule.high - rule.low) / 2
        return f"A loss of {percent(drop)} points of the gate's mean would have been certain in four of five cases."

    def history(self) -> tuple[str, str]:
        """The table of the newest generations and that of the older ones; "" where there are none."""
        if not self.keys:
            return "", ""
        headers = ["Generation", *(f"{role}, {md(protocol)}" for role, protocol in self.keys)]
        headers += ["Over gen-0", "Over its parent", "Contributions"]
        rows = [self._row(entry) for entry in self.entries]
        return table(headers, rows[-RECENT:]), table(headers, rows[:-RECENT])

    def _row(self, entry: IndexEntry) -> list[str]:
        scores = {(s.role, s.protocol): s for s in entry.scores}
        mark = " †" if self.scores and entry.scores and entry.suite != self.scores.suite else ""
        mark += " (withdrawn)" if entry.status == "yanked" else ""
        mean, first = self._mean(entry), self._mean(self.entries[0])
        parent = next((e for e in self.entries if e.generation == entry.parent_generation), None)
        before = self._mean(parent) if parent and entry.generation else None
        return [
            f"gen-{entry.generation}{mark}",
            *(f"{percent(scores[key].mean)} ({_range(scores[key])})" if key in scores else "" for key in self.keys),
            percent(mean - first, sign=True) if mean is not None and first is not None and entry.generation else "",
            percent(mean - before, sign=True) if mean is not None and before is not None else "",
            str(entry.contributions) if entry.contributions else "",
        ]

    def _mean(self, entry: IndexEntry) -> float | None:
        """The entry's headline score, if the suite is this record's."""
        if self.scores is None or entry.suite != self.scores.suite:
            return None
        return next((s.mean for s in entry.scores if (s.role, s.protocol) == self.key), None)

    def tasks(self) -> str:
        """Every task under every role and protocol, beside the parent where the suite is the same."""
        if self.scores is None:
            return ""
        before = self._parent_tasks()
        rows = []
        for score in sorted(self.scores.tasks, key=lambda s: (s.task or "", s.role, s.protocol)):
            old = before.get((score.task, score.role, score.protocol))
            change = percent(score.mean - old.mean, sign=True) if old else ""
            shown = f"{percent(old.mean)} ({_range(old)})" if old else ""
            now = f"{percent(score.mean)} ({_range(score)})"
            mark = " ‡" if score.task in self.tainted else ""
            rows.append([md(score.task or "") + mark, score.role, md(score.protocol), shown, now, change])
        return table(["Task", "Role", "Protocol", self.parent, f"gen-{self.record.generation}", "Change"], rows)

    def worse(self) -> list[str]:
        """Tasks whose headline score fell by 0.05 points or more below the parent's."""
        before = self._parent_tasks()
        pairs = [(s, before.get((s.task, s.role, s.protocol))) for s in (self.scores.tasks if self.scores else ())]
        fell = [s.task for s, old in pairs if old and (s.role, s.protocol) == self.key and s.mean < old.mean - 0.0005]
        return [task for task in fell if task]

    def seen_in_training(self) -> list[str]:
        """Evaluated tasks that contributions were trained on, by what their cards say of task and data sets."""
        used = {data_name(name) for c in self.record.contributions for name in (c.task or "", *c.datasets)}
        tasks = {s.task for s in (self.scores.tasks if self.scores else ()) if s.task}
        return sorted(task for task in tasks if data_name(task) in used or task in self.tainted)

    def contamination(self) -> str:
        """Which tasks of the tables are not held out, since when and through whom; "" if all are."""
        told = []
        for found in self.record.contaminated:
            names = [md(key.rpartition("@")[0], 80) for key in found.contributions[:3]]
            names += ["others"] if len(found.contributions) > len(names) else []
            since = self.record.generation if found.since is None else found.since
            told.append(f"{md(found.task)}, since gen-{since} ({', '.join(names)})")
        if not told:
            return ""
        return f"Tasks marked ‡ are not held out: the cards of contributions name their data: {'; '.join(told)}."

    def _parent_tasks(self) -> dict[tuple[str | None, str, str], Score]:
        old = self.record.parent_scores
        if old is None or self.scores is None or old.suite != self.scores.suite:
            return {}
        return {(s.task, s.role, s.protocol): s for s in old.tasks}

    def _has(self, role: str) -> bool:
        return any(key[0] == role for key in self.keys)


def _range(estimate: Estimate, *, sign: bool = False) -> str:
    return f"{percent(estimate.low, sign=sign)} to {percent(estimate.high, sign=sign)}"
