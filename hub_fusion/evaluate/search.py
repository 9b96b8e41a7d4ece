"""Which contributions, and how far? The candidate is searched for on the gate tasks, within a budget of measurements.

The search knows nothing of weights: `attempt` fuses some contributions at a step, measures and judges, and may well
answer from a cache, so that a killed search goes on for little. First all contributions at the first step; then, if
asked for, who makes it worse is left out; then the other steps. Report tasks are never looked at. Not covered: the
winner's luck. What was chosen as the best of several on the gate tasks looks a little better there than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hub_fusion.evaluate.paired import is_gain, pair, standard_error
from hub_fusion.evaluate.scores import Measurement
from hub_fusion.evaluate.soup import greedy_soup
from hub_fusion.events import Say
from hub_fusion.recipe import Gate, Search
from hub_fusion.records import Estimate, Trial, Verdict


@dataclass(frozen=True)
class Tried:
    """A candidate: what was fused, how far, what it answered and what the gate said."""

    members: tuple[str, ...]
    step: float
    measurement: Measurement
    verdict: Verdict


Attempt = Callable[[Sequence[str], float], Tried]


@dataclass
class Log:
    """What was tried, and what of the budget is left."""

    attempt: Attempt
    rules: Search
    gate: Gate
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Measurements that may still be made. Seconds are those of the measuring, also where a cache knew them."""
        over = self.rules.seconds is not None and self.seconds >= self.rules.seconds
        return 0 if over else max(self.rules.evaluations - len(self.trials), 0)

    def go(
        self, members: Sequence[str], step: float, kind: str = "step", contribution: str | None = None,
        against: Measurement | None = None,
    ) -> Tried:  # fmt: skip
        """One attempt, logged; a step's change is that from the parent, which the verdict knows."""
        tried = self.attempt(tuple(members), step)
        self.seconds += tried.measurement.scores.seconds
        change = _difference(tried.measurement, against, self.gate) if against else None
        if kind == "step" and tried.verdict.rules:
            parent = tried.verdict.rules[0]
            change = None if parent.low is None else Estimate(mean=parent.change, low=parent.low, high=parent.high)
        self.trials.append(Trial.model_validate({
            "kind": kind, "contribution": contribution, "members": len(members), "step": step,
            "candidate": tried.verdict.candidate, "change": change, "accepted": tried.verdict.accepted,
        }))  # fmt: skip
        return tried


@dataclass(frozen=True)
class Found:
    """The candidate that was chosen, everything that was measured, and why contributions were dropped."""

    best: Tried
    trials: tuple[Trial, ...]
    dropped: dict[str, Trial]  # repo@sha → the measurement that speaks against it
    seconds: float = 0.0


def search(
    keys: Sequence[str], steps: Sequence[float], rules: Search, gate: Gate, attempt: Attempt, *,
    reserved: int = 0, say: Say = lambda _: None,
) -> Found:  # fmt: skip
    """The best candidate of the contributions `keys`, given in the order in which they are suspected.

    `reserved` measurements of the budget are left for what comes after. Of the steps a later one is taken if the
    gate accepts it and not the earlier, or if it is better by more than one standard error of their paired difference:
    steps stand in the order in which they are preferred, and a difference that may be noise should not make a loop
    creep.
    """
    log = Log(attempt, rules, gate)
    best = log.go(sorted(keys), steps[0])
    if not best.measurement.scores.deciding():
        return Found(best, tuple(log.trials), {})  # nothing is measured, so there is nothing to choose by
    dropped: dict[str, Trial] = {}
    if rules.contributions == "leave-one-out" and len(keys) > 1:
        best, dropped = _leave_one_out(best, keys, log, reserved, say)
    elif rules.contributions == "greedy-soup" and len(keys) > 1:
        best, dropped = _soup(best, log, reserved, say)
    for step in steps[1:]:
        if best.verdict.accepted and rules.steps == "first":
            break
        if log.left <= reserved:
            say(f"the search's budget is spent before step {step:g}")
            break
        other = log.go(best.members, step)
        best = other if _is_preferred(other, best, gate) else best
    return Found(best, tuple(log.trials), dropped, log.seconds)


def _is_preferred(later: Tried, earlier: Tried, gate: Gate) -> bool:
    if later.verdict.accepted != earlier.verdict.accepted:
        return later.verdict.accepted
    if not later.verdict.accepted:
        return later.verdict.candidate > earlier.verdict.candidate
    change = _difference(later.measurement, earlier.measurement, gate)
    return change is not None and change.mean > max(standard_error(change), 0.0)


def _leave_one_out(
    whole: Tried, keys: Sequence[str], log: Log, reserved: int, say: Say
) -> tuple[Tried, dict[str, Trial]]:
    """Without those whose absence is certainly a gain, if their absence together is one; else all of them."""
    against: dict[str, Trial] = {}
    for key in keys:
        if log.left <= reserved + 1:  # one for the candidate without them all
            say(f"the search's budget is spent before {key} was left out")
            break
        log.go([k for k in whole.members if k != key], whole.step, "without", key, whole.measurement)
        change = log.trials[-1].change
        if change is not None and is_gain(change, len(keys)):
            against[key] = log.trials[-1]
    rest = [key for key in whole.members if key not in against]
    if not against or not rest:
        return whole, {}
    without = log.go(rest, whole.step)
    return (without, against) if without.verdict.candidate > whole.verdict.candidate else (whole, {})


def _soup(whole: Tried, log: Log, reserved: int, say: Say) -> tuple[Tried, dict[str, Trial]]:
    """The greedy soup, if it is better than all together."""
    count = len(whole.members)
    if log.left - reserved < 2 * count - 1:
        say(f"a greedy soup of {count} takes {2 * count - 1} measurements, the budget has {log.left - reserved} left")
        return whole, {}
    tried: dict[tuple[str, ...], Tried] = {}
    spoke: dict[str, Trial] = {}

    def score_of(names: Sequence[str]) -> float:
        kind = "alone" if len(names) == 1 else "with"
        found = tried[tuple(names)] = log.go(sorted(names), whole.step, kind, names[-1])
        spoke[names[-1]] = log.trials[-1]
        return found.verdict.candidate

    names, score = greedy_soup({key: score_of([key]) for key in whole.members}, score_of)
    if score <= whole.verdict.candidate:
        return whole, {}
    return tried[tuple(names)], {key: trial for key, trial in spoke.items() if key not in names}


def _difference(one: Measurement, other: Measurement, gate: Gate) -> Estimate | None:
    found = pair(one, other, protocols=gate.protocols)
    return found.mean if found else None
