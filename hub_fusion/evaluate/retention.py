"""Forgetting: what became of the tasks that contributors have trained on.

A loop that only looks at held-out tasks may lose on the way what it was grown from. So the seen tasks of the recipe are
told apart: from the parent, and from gen-0, which none of them had touched. By linear probe, or without one by the
cheapest protocol: how much of a task can still be read off the body. Nothing is decided by it. Not covered: which of
the generations lost a task; a loss since gen-0 that grew slowly shows in no change from a parent.
"""

from __future__ import annotations

from hub_fusion.evaluate.features import FeatureStore
from hub_fusion.evaluate.paired import pair
from hub_fusion.evaluate.scores import LIKELIHOODS, Measurement
from hub_fusion.evaluate.suite import protocols_of
from hub_fusion.recipe import Evaluate
from hub_fusion.records import Retained


def seen_suite(evaluate: Evaluate) -> Evaluate | None:
    """The seen tasks by the cheapest protocol that gives accuracies (plain text by perplexity); None without them."""
    seen = tuple(task for task in evaluate.tasks if task.role == "seen")
    protocols = list(protocols_of(evaluate, FeatureStore(None, "")))
    keep = [*[p for p in protocols if p not in LIKELIHOODS][:1], "perplexity"]
    update = {"tasks": seen, **{p: None for p in protocols if p not in keep}}
    return evaluate.model_copy(update=update) if seen and set(protocols) & set(keep) else None


def retained(candidate: Measurement, parent: Measurement, root: Measurement) -> tuple[Retained, ...]:
    """The mean over the seen tasks, then each of them, paired; all three by one `seen_suite`. Empty without answers."""
    over_parent, over_root = (pair(candidate, other, role="seen") for other in (parent, root))
    if over_parent is None or over_root is None:
        return ()
    (protocol,) = candidate.scores.deciding()
    tasks = [Retained(task=task, protocol=protocol, over_parent=found, over_root=over_root.tasks[task])
             for task, found in over_parent.tasks.items()]  # fmt: skip
    return (Retained(protocol=protocol, over_parent=over_parent.mean, over_root=over_root.mean), *tasks)
