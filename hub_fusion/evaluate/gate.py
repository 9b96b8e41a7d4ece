"""The gate: may this candidate become the next generation?

It looks at the mean accuracy over the gate tasks (or, where only perplexity was measured or the recipe asks for it, at
the mean log-likelihood per token), never at the report tasks. Two floors hold a loop in place: ε below
the parent, so that one generation cannot lose much, and ε_best (2ε unless given) below the best published generation,
so that many small losses cannot add up. Not covered: significance. A gate with ε smaller than the noise of the suite
rejects at random; the intervals in the scores tell how large that noise is.
"""

from __future__ import annotations

import math

from hub_fusion.errors import RecordError
from hub_fusion.recipe import Gate
from hub_fusion.records import Index, Scores, Verdict

ROUNDING = 1e-9  # a candidate exactly on a floor passes, whatever binary fractions make of the subtraction


def judge(candidate: Scores, parent: Scores, best: float | None, gate: Gate, step: float) -> Verdict:
    """Accepted if the candidate's gate mean is at least parent − ε and at least best − ε_best.

    `best` is the highest gate mean of any published generation, None if there is none but the parent. With parent
    0.80, best 0.81 and ε 0.02 the floors are 0.78 and 0.77. Raises RecordError if the two were measured by different
    suites, if a protocol that should decide was not measured, or if a number is not finite.
    """
    if candidate.suite != parent.suite:
        raise RecordError(
            "scores of different suites do not compare: "
            f"candidate {candidate.suite[:12]}…, parent {parent.suite[:12]}…; "
            "measure the parent again with the present tasks and settings"
        )
    if not gate.require_tasks and not candidate.deciding():
        return Verdict(
            accepted=True, step=step, candidate=0.0, parent=0.0, best=0.0, epsilon=gate.epsilon,
            reason="accepted without a measurement: the recipe names no tasks and says gate.require_tasks: false",
        )  # fmt: skip
    ours, theirs = _decide_by(candidate, gate), _decide_by(parent, gate)
    best = theirs if best is None else best
    if not all(map(math.isfinite, (ours, theirs, best))):
        raise RecordError(
            f"gate means must be finite: candidate {ours}, parent {theirs}, best {best}; "
            "a checkpoint or a record is damaged"
        )
    allowed_best = 2 * gate.epsilon if gate.epsilon_best is None else gate.epsilon_best
    lost_parent = ours < theirs - gate.epsilon - ROUNDING
    lost_best = ours < best - allowed_best - ROUNDING
    change = f"gate mean {ours:.4f}, {ours - theirs:+.4f} against the parent's {theirs:.4f} (allowed −{gate.epsilon:g})"
    against_best = f"{ours - best:+.4f} against the best generation's {best:.4f} (allowed −{allowed_best:g})"
    accepted = not lost_parent and not lost_best
    reason = f"{'accepted' if accepted else 'rejected'} at step {step:g}: {change}, {against_best}"
    return Verdict(
        accepted=accepted, step=step, candidate=ours, parent=theirs, best=best, epsilon=gate.epsilon,
        reason=reason, tried=((step, ours),),
    )  # fmt: skip


def best_so_far(index: Index, parent: Scores, gate: Gate) -> float | None:
    """The highest gate mean of any generation that was measured with the parent's suite, None if there is none."""
    protocols: set[str] = set(gate.protocols) or parent.deciding()
    if not protocols:
        return None  # nothing was measured
    means = []
    for entry in index.generations:
        scores = (*entry.scores, *entry.likelihoods)
        values = [s.mean for s in scores if s.role == "gate" and s.protocol in protocols]
        if entry.suite == parent.suite and len(values) == len(protocols):
            means.append(sum(values) / len(values))
    return max(means, default=None)


def _decide_by(scores: Scores, gate: Gate) -> float:
    """Mean over the protocols that decide; RecordError if one of them, or anything at all, is missing."""
    if not gate.protocols:
        return scores.mean("gate")
    return sum(scores.mean("gate", protocol) for protocol in gate.protocols) / len(gate.protocols)
