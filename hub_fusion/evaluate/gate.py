"""The gate: may this candidate become the next generation?

It looks at the mean accuracy over the gate tasks and at each of them (where only perplexity was measured or the recipe
asks for it, at log-likelihoods), never at the report tasks. Four rules hold a loop in place, each with a margin, an
allowed loss:

* parent (ε): one generation cannot lose much;
* best (ε_best, 2ε unless given): many small losses cannot add up;
* root (ε_root, ε unless given): nothing is published that is worse than what people had before the first fuse;
* task (δ): the mean may not hide that one task collapsed.

A canary that trips (evaluate/canaries.py) rejects as a task does.

How a margin is judged is `gate.test`. *significance*, the default: the change of the mean is within the margin, and its
paired 95 % interval does not lie below 0. So a loss that is certain is rejected however small, one that may be noise
only beyond the margin, and a small suite does not reject everything. A task is rejected when it lost more than δ and
its interval, which holds for all tasks at once, lies below 0. *noninferiority*: the lower end of the interval is within
the margin, so that what is published is certainly not worse by more than it; small suites reject most candidates.
*means*: the change is within the margin. Against the best generation certainty alone never rejects: the best of many
measurements is partly luck. Where answers to pair with are not at hand, means decide.
Not covered: losses too small for the suite; `paired.smallest_noticed_drop` tells them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hub_fusion.errors import RecordError
from hub_fusion.evaluate.paired import pair
from hub_fusion.evaluate.scores import Measurement, check_suites
from hub_fusion.recipe import Gate
from hub_fusion.records import CanaryCheck, Estimate, Index, IndexEntry, Rule, Scores, Verdict

ROUNDING = 1e-9  # a candidate exactly on a margin passes, whatever binary fractions make of the subtraction


@dataclass(frozen=True)
class Rival:
    """A generation that the candidate is held against besides its parent; without answers, by its gate mean."""

    name: Literal["best", "root"]
    tag: str
    mean: float
    measurement: Measurement | None = None


def judge(
    candidate: Measurement, parent: Measurement, gate: Gate, step: float, *, rivals: Sequence[Rival] = (),
    parent_tag: str = "the parent",
) -> Verdict:  # fmt: skip
    """The verdict, every rule with its numbers, and the sentence that says which of them failed.

    With parent 0.80, best 0.81 and ε 0.02 the margins are at 0.78 and 0.77. Raises RecordError if the two were measured
    by different suites, if a protocol that should decide was not measured, or if a number is not finite.
    """
    check_suites(candidate.scores, parent.scores)
    if not gate.require_tasks and not candidate.scores.deciding():
        return Verdict(
            accepted=True, step=step, candidate=0.0, parent=0.0, best=0.0, epsilon=gate.epsilon, test=gate.test,
            reason="accepted without a measurement: the recipe names no tasks and says gate.require_tasks: false",
        )  # fmt: skip
    ours, theirs = gate_mean(candidate.scores, gate), gate_mean(parent.scores, gate)
    best = next((rival for rival in rivals if rival.name == "best"), None)
    if best is None or best.mean <= theirs:
        best = Rival("best", parent_tag, theirs, parent)
    if not all(map(math.isfinite, (ours, theirs, *(rival.mean for rival in rivals)))):
        raise RecordError(
            f"gate means must be finite: candidate {ours}, parent {theirs}, {[r.mean for r in rivals]}; "
            "a checkpoint or a record is damaged"
        )
    rules = [_mean_rule("parent", parent_tag, ours - theirs, candidate, parent, gate)]
    for rival in (best, *(r for r in rivals if r.name == "root" and r.tag != parent_tag)):
        rules.append(_mean_rule(rival.name, rival.tag, ours - rival.mean, candidate, rival.measurement, gate))
    rules += _task_rules(parent_tag, candidate, parent, gate)
    failed = [rule for rule in rules if not rule.passed]
    told = "; ".join(map(_sentence, failed[:3])) + (f"; and {len(failed) - 3} more" if len(failed) > 3 else "")
    told = told or f"{_numbers(rules[0])} against {parent_tag}, {_numbers(rules[1])} against the best, {best.tag}"
    return Verdict(
        accepted=not failed, step=step, candidate=ours, parent=theirs, best=best.mean, epsilon=gate.epsilon,
        reason=f"{'rejected' if failed else 'accepted'} at step {step:g}: gate mean {ours:.4f}, "
               f"the parent's {theirs:.4f}; {told}",
        tried=((step, ours),), test=gate.test, rules=tuple(rules),
    )  # fmt: skip


def with_canaries(verdict: Verdict, checks: Sequence[CanaryCheck]) -> Verdict:
    """The verdict, and a rejection where a canary trips, as where one task lost too much."""
    tripped = [c for c in checks if not c.passed]
    if not tripped:
        return verdict.model_copy(update={"canaries": tuple(checks)})
    told = "; ".join(
        f"the canary {c.name} trips: {c.holds:.4f}, the parent's {c.parent:.4f} (allowed −{c.allowed:g})"
        for c in tripped[:3]
    )
    reason = verdict.reason.replace("accepted", "rejected", 1) if verdict.accepted else verdict.reason
    return verdict.model_copy(update={"canaries": tuple(checks), "accepted": False, "reason": f"{reason}; {told}"})


def find_rivals(
    index: Index, parent: Scores, gate: Gate, answers: Callable[[int], Measurement | None] = lambda _: None
) -> list[Rival]:
    """Gen-0 and the best generation that were measured with the parent's suite; withdrawn ones do not count.

    `answers` gives what a generation answered, where that is at hand.
    """
    means = {entry.generation: mean for entry in index.generations if entry.status != "yanked"
             and entry.generation is not None and (mean := _entry_mean(entry, parent, gate)) is not None}  # fmt: skip
    found = [Rival("root", "gen-0", means[0], answers(0))] if 0 in means else []
    if means:
        number = max(means, key=lambda n: (means[n], n))
        found.append(Rival("best", f"gen-{number}", means[number], answers(number)))
    return found


def gate_mean(scores: Scores, gate: Gate) -> float:
    """Mean over the protocols that decide; RecordError if one of them, or anything at all, is missing."""
    if not gate.protocols:
        return scores.mean("gate")
    return sum(scores.mean("gate", protocol) for protocol in gate.protocols) / len(gate.protocols)


def _entry_mean(entry: IndexEntry, parent: Scores, gate: Gate) -> float | None:
    protocols: set[str] = set(gate.protocols) or parent.deciding()
    values = [s.mean for s in (*entry.scores, *entry.likelihoods) if s.role == "gate" and s.protocol in protocols]
    return (
        sum(values) / len(values) if values and len(values) == len(protocols) and entry.suite == parent.suite else None
    )


def _mean_rule(
    name: Literal["parent", "best", "root"], tag: str, change: float, candidate: Measurement,
    other: Measurement | None, gate: Gate,
) -> Rule:  # fmt: skip
    allowed = {"parent": gate.epsilon, "root": gate.epsilon if gate.epsilon_root is None else gate.epsilon_root,
               "best": 2 * gate.epsilon if gate.epsilon_best is None else gate.epsilon_best}[name]  # fmt: skip
    paired = pair(candidate, other, protocols=gate.protocols) if other else None
    found = paired.mean if paired else Estimate(mean=change, low=change, high=change)
    worst = found.low if gate.test == "noninferiority" else found.mean
    certain = gate.test == "significance" and paired is not None and found.high < -ROUNDING and name != "best"
    low, high = (found.low, found.high) if paired else (None, None)
    return Rule(name=name, against=tag, passed=worst >= -allowed - ROUNDING and not certain, change=found.mean,
                low=low, high=high, allowed=allowed)  # fmt: skip


def _task_rules(tag: str, candidate: Measurement, parent: Measurement, gate: Gate) -> list[Rule]:
    paired = pair(candidate, parent, protocols=gate.protocols) if gate.delta is not None else None
    if paired is None or gate.delta is None:
        return []
    return [
        Rule(name="task", against=tag, task=task, change=found.mean, low=found.low, high=found.high,
             allowed=gate.delta, passed=found.mean >= -gate.delta - ROUNDING
             or (gate.test != "means" and found.high >= 0))
        for task, found in paired.tasks.items()
    ]  # fmt: skip


def _numbers(rule: Rule) -> str:
    interval = "" if rule.low is None or rule.high is None else f" [{rule.low:+.4f}, {rule.high:+.4f}]"
    return f"{rule.change:+.4f}{interval} (allowed −{rule.allowed:g})"


def _sentence(rule: Rule) -> str:
    """How a rule failed."""
    where = f"task {rule.task}" if rule.task else {"best": f"the best, {rule.against}"}.get(rule.name, rule.against)
    if rule.change < -rule.allowed - ROUNDING:
        return f"too much lost against {where}: {_numbers(rule)}"
    if rule.high is not None and rule.high < 0:
        return f"certainly worse than {where}: {_numbers(rule)}"
    return f"perhaps too much lost against {where}: {_numbers(rule)}"
