"""The gate: may this candidate become the next generation?

It looks at the mean accuracy over the gate tasks, never at the report tasks. Two floors hold a loop in place: ε below
the parent, so that one generation cannot lose much, and ε_best (2ε unless given) below the best published generation,
so that many small losses cannot add up. Not covered: significance. A gate with ε smaller than the noise of the suite
rejects at random; the intervals in the scores tell how large that noise is.
"""

from __future__ import annotations

import math

from hub_fusion.errors import RecordError
from hub_fusion.recipe import Gate
from hub_fusion.records import Scores, Verdict

ROUNDING = 1e-9  # a candidate exactly on a floor passes, whatever binary fractions make of the subtraction


def judge(candidate: Scores, parent: Scores, best: float | None, gate: Gate, step: float) -> Verdict:
    """Accepted if the candidate's gate mean is at least parent − ε and at least best − ε_best.

    `best` is the highest gate mean of any published generation, None if there is none but the parent. With parent
    0.80, best 0.81 and ε 0.02 the floors are 0.78 and 0.77. Raises RecordError if the two were measured by different
    suites, if a protocol that should decide was not measured, or if a number is not finite.
    """
    if candidate.suite != parent.suite:
        raise RecordError(
            f"scores of different suites do not compare: candidate {candidate.suite[:12]}…, parent {parent.suite[:12]}…; "
            "measure the parent again with the present tasks and settings"
        )
    ours, theirs = _decide_by(candidate, gate), _decide_by(parent, gate)
    best = theirs if best is None else best
    if not all(map(math.isfinite, (ours, theirs, best))):
        raise RecordError(
            f"gate means must be finite: candidate {ours}, parent {theirs}, best {best}; a checkpoint or a record is damaged"
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


def _decide_by(scores: Scores, gate: Gate) -> float:
    """Mean over the protocols that decide; RecordError if one of them, or anything at all, is missing."""
    if not gate.protocols:
        return scores.mean("gate")
    return sum(scores.mean("gate", protocol) for protocol in gate.protocols) / len(gate.protocols)
