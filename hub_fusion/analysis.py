"""What people look at beside the verdict: how far the layers moved, what was forgotten, the line from the parent.

Of the candidate that was chosen, published or not. Nothing here decides, and no search budget counts it: gen-0 is
measured once on the seen tasks, and, where the recipe asks for the line, every point of it.
"""

from __future__ import annotations

from pathlib import Path

from hub_fusion.candidates import Chosen, Workshop
from hub_fusion.evaluate.interpolation import accuracies_along, barrier, points
from hub_fusion.evaluate.retention import retained, seen_suite
from hub_fusion.evaluate.suite import cheapest
from hub_fusion.records import Analysis, Line, Retained
from hub_fusion.weights.distance import drift
from hub_fusion.weights.fuse import folder_sha256


def analyse(shop: Workshop, chosen: Chosen) -> Analysis | None:
    """How the fused contributions lie to each other, with the drift of the layers and the line, if it is asked for."""
    if chosen.analysis is None:
        return None
    update: dict[str, object] = {"line": _line(shop)}
    if not shop.frozen:
        moved = drift(shop.base, shop.work / "candidate")
        update["drift"] = {layer: round(far, 6) for layer, far in moved.items()}
    return chosen.analysis.model_copy(update=update)


def look_back(shop: Workshop) -> tuple[Retained, ...]:
    """What became of the tasks that contributors have trained on; empty where the recipe names none."""
    seen = seen_suite(shop.recipe.evaluate)
    if seen is None:
        return ()
    parent, candidate = shop.measure(*shop.parent(), seen), shop.measure(shop.whole, shop.digest, seen)
    if not shop.state.generation:
        return retained(candidate, parent, parent)
    root = shop.root()
    return retained(candidate, parent, shop.measure(root, folder_sha256(root), seen))


def _line(shop: Workshop) -> Line | None:
    """Walked on the gate tasks by the cheapest protocol, everything that is not body fitted anew at every point."""
    settings, recipe = shop.recipe.evaluate.interpolation, shop.recipe
    if settings is None or not recipe.evaluate.tasks:
        return None
    evaluate = cheapest(recipe.evaluate, recipe.gate)
    protocols: set[str] = set()

    def value(folder: Path) -> float:
        scores = shop.measure(folder, folder_sha256(folder), evaluate).scores
        protocols.update(scores.deciding())
        return scores.mean("gate")

    shop.say(f"walking from the parent to the candidate in {settings.points} points")
    found = accuracies_along(shop.parent()[0], shop.whole, shop.work / "line", shop.compute, value, settings.points)
    return Line(protocol=min(protocols), at=tuple(round(at, 4) for at in points(settings.points)),
                values=tuple(round(v, 6) for v in found), barrier=round(barrier(found), 6))  # fmt: skip
