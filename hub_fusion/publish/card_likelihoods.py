"""What was measured that is no accuracy, for the card: log-likelihoods in nats, parent beside generation."""

from __future__ import annotations

from hub_fusion.publish.markdown import md, table
from hub_fusion.records import Estimate, Generation, Score

WORDS = {
    "perplexity": "log-likelihood per token of held-out text (perplexity is e to its negative)",
    "logme": "LogME, the log evidence per example of a linear model on the frozen body",
}


def likelihood_table(record: Generation) -> str:
    """Every task and mean, in nats with four digits, larger is better; "" if nothing of the kind was measured."""
    scores, old = record.candidate_scores, record.parent_scores
    if scores is None or not scores.likelihoods:
        return ""
    same = old is not None and old.suite == scores.suite
    before = {(s.task, s.role, s.protocol): s for s in old.likelihoods} if same and old else {}
    changes = {(d.role, d.protocol): d for d in record.likelihood_differences}
    rows = [
        _row(score, before.get((score.task, score.role, score.protocol)), changes.get((score.role, score.protocol)))
        for score in scores.likelihoods
    ]
    parent = "" if record.parent_generation is None else f"gen-{record.parent_generation}"
    shown = table(["Task", "Role", "Protocol", parent, f"gen-{record.generation}", "Change"], rows)
    measured = {s.protocol for s in scores.likelihoods}
    told = "; ".join(f"{protocol}: {words}" for protocol, words in WORDS.items() if protocol in measured)
    return f"In nats, larger is better ({told}).\n\n{shown}"


def _row(score: Score, old: Score | None, change: Estimate | None) -> list[str]:
    by = ""
    if old:
        by = _nats(score.mean - old.mean, sign=True)
        if score.task is None and change:
            by += f" ({_nats(change.low, sign=True)} to {_nats(change.high, sign=True)})"
    name = "mean" if score.task is None else md(score.task)
    return [name, score.role, md(score.protocol), _shown(old) if old else "", _shown(score), by]


def _shown(score: Score) -> str:
    return f"{_nats(score.mean)} ({_nats(score.low)} to {_nats(score.high)})"


def _nats(value: float, *, sign: bool = False) -> str:
    return (f"{value:+.4f}" if sign else f"{value:.4f}").replace("-", "−")
