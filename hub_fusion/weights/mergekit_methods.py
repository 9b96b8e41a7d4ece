"""How mergekit's methods and parameters are said in ours, one function a family.

In mergekit (0.1.5) a change is λ·Σ wᵢ·δᵢ, over Σ wᵢ if `normalize`; a method thins out the δᵢ, and may let their signs
vote. Ours takes shares wᵢ/Σ|w| and a `scale`, so the scale holds λ and the sum. Each function says what differs still.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hub_fusion.merge import find_method
from hub_fusion.weights.mergekit_asked import Asked, Formula

DRAWS = "which elements are dropped is drawn by another generator than torch's: --seed N gives other draws"


def _formula(asked: Asked, method: str, options: dict[str, Any], weights: list[float]) -> Formula:
    """Checked against the method's own rules."""
    found = find_method(method)
    if any(w < 0 for w in weights) and not found.signed:
        asked.fault(f"weight: {method} takes no negative weights here, task_arithmetic does")
    if not any(weights):
        asked.fault("weight: all weights are 0, so nothing is merged")
    if not asked.faults:
        found.bind(options)
    return Formula(method, options, tuple(weights))


def linear(asked: Asked) -> Formula:
    """Σ wᵢ·θᵢ/Σ wᵢ = θ₀ + Σ wᵢ·δᵢ/Σ wᵢ; where the base has a weight too, it is in the sum."""
    asked.only("weight", "normalize")
    weights = asked.each("weight")
    own = asked.base.get("weight", asked.shared.get("weight"))
    if own is None:
        asked.fault("weight of the base is missing: to mergekit the base is one of the models that linear merges")
    base = asked.scalar(own, "weight of the base", 0.0)
    total = base + sum(weights)
    if not asked.flag("normalize", True) and not math.isclose(total, 1.0, rel_tol=1e-9):
        asked.fault(f"normalize: false with weights that add up to {total:g} multiplies the models themselves")
        total = 1.0
    if not total:
        asked.fault("weight: the weights add up to 0")
        return Formula("mean", {}, tuple(weights))
    if base == 0 and min(weights) >= 0:
        return _formula(asked, "mean", {}, weights)
    return _formula(asked, "task_arithmetic", {"scale": _sum(weights) / (_count(weights) * total)}, weights)


def task_arithmetic(asked: Asked) -> Formula:
    """λ·Σ wᵢ·δᵢ."""
    asked.only("weight", "normalize", "lambda", "rescale", "density")
    weights = asked.each("weight")
    scale = _lambda(asked, weights, False) * _sum(weights) / _count(weights)
    return _formula(asked, "task_arithmetic", {"scale": scale}, weights)


def ties(asked: Asked) -> Formula:
    """Trim, elect by Σ wᵢ·δᵢ, merge those that agree."""
    density = asked.same("density", 1.0)
    _no_rescale(asked, density)
    if density < 1:
        asked.note("trimming keeps ⌈density·n⌉ of the n elements of a tensor, mergekit ⌊density·n⌋: one more at most")
    return _elected(asked, "ties", {"density": min(density, 1.0)}, True)


def dare_linear(asked: Asked) -> Formula:
    """A random share of every δᵢ stays, and its L1 norm is restored."""
    options, factor = _dare(asked)
    weights = asked.each("weight")
    scale = _lambda(asked, weights, False) * _sum(weights) * factor
    return _formula(asked, "dare", options | {"scale": scale}, weights)


def dare_ties(asked: Asked) -> Formula:
    """The same, and signs vote."""
    options, factor = _dare(asked)
    return _elected(asked, "dare_ties", options, False, factor)


def della(asked: Asked) -> Formula:
    """Larger changes stay more often."""
    return _elected(asked, "della", _della(asked), True)


def della_linear(asked: Asked) -> Formula:
    """The same without a vote."""
    options, weights = _della(asked), asked.each("weight")
    return _formula(asked, "della_linear", options | {"scale": _lambda(asked, weights, False) * _sum(weights)}, weights)


def breadcrumbs(asked: Asked) -> Formula:
    """The largest and the smallest go."""
    options, weights = _breadcrumbs(asked), asked.each("weight")
    scale = _lambda(asked, weights, False) * _sum(weights) / _count(weights)
    return _formula(asked, "breadcrumbs", options | {"scale": scale}, weights)


def breadcrumbs_ties(asked: Asked) -> Formula:
    """The same, and signs vote."""
    return _elected(asked, "breadcrumbs_ties", _breadcrumbs(asked), False)


def model_stock(asked: Asked) -> Formula:
    """t·mean + (1 − t)·base."""
    asked.only("filter_wise")
    if asked.flag("filter_wise", False):
        asked.fault("filter_wise: true: the angle is taken over whole tensors here")
    if len(asked.entries) < 2:
        asked.fault("model_stock needs two models besides the base; mergekit asks for them too")
    asked.note("the part of the way is cut to [0, 1]; where task vectors oppose each other mergekit steps backwards")
    return _formula(asked, "model_stock", {}, [1.0] * len(asked.entries))


def sce(asked: Asked) -> Formula:
    """Contributions weigh as their squared length."""
    asked.only("select_topk")
    select = asked.number("select_topk", 1.0)
    return _formula(asked, "sce", {"select": min(max(select, 0.0), 1.0)}, [1.0] * len(asked.entries))


def multislerp(asked: Asked) -> Formula:
    """A mean of directions, with the mean length."""
    asked.only("weight", "normalize_weights", "eps")
    weights = asked.each("weight")
    if not asked.flag("normalize_weights", True) and not math.isclose(sum(weights), 1.0, rel_tol=1e-9):
        asked.fault(f"normalize_weights: false with weights that add up to {sum(weights):g}")
    asked.note("the mean of directions is iterated to the Karcher mean; mergekit's one step by projection is the same "
               "for two models of equal weight, and some per cent of the change away otherwise")  # fmt: skip
    return _formula(asked, "karcher", {}, weights)


def _elected(asked: Asked, method: str, options: dict[str, Any], normalize: bool, factor: float = 1.0) -> Formula:
    """Methods in which signs vote: over the weights that agree, or the plain sum."""
    asked.only("weight", "normalize", "lambda", "rescale", "density", "epsilon", "gamma")
    weights = asked.each("weight")
    scale = asked.number("lambda", 1.0) * factor
    if asked.flag("normalize", normalize):
        return _formula(asked, method, options | {"divisor": "weights", "scale": scale}, weights)
    scale *= _sum(weights) / _count(weights)
    return _formula(asked, method, options | {"divisor": "none", "scale": scale}, weights)


def _lambda(asked: Asked, weights: list[float], normalize: bool) -> float:
    """λ, over Σ wᵢ if `normalize`."""
    asked.only("weight", "normalize", "lambda", "rescale", "density", "epsilon", "gamma")
    total = sum(weights)
    divided = asked.flag("normalize", normalize) and abs(total) >= 1e-8  # below it mergekit does not divide
    return asked.number("lambda", 1.0) / (total if divided else 1.0)


def _dare(asked: Asked) -> tuple[dict[str, Any], float]:
    """Options of both DAREs, and what their scale is multiplied with."""
    density, rescale = asked.same("density", 1.0), asked.flag("rescale", True)
    if density < 1:
        asked.note(DRAWS)
    density = min(density, 1.0)
    options = {"density": density, "rescale": "norm" if rescale else "density"}
    return options, 1.0 if rescale else density  # ours divides by the density; without rescaling that is taken back


def _della(asked: Asked) -> dict[str, Any]:
    density, epsilon = asked.same("density", 1.0), asked.same("epsilon", 0.15)
    if density >= 1:  # nothing is dropped in mergekit, whatever epsilon says
        return {"density": 1.0, "window": 0.0, "rescale": "norm"}
    if not asked.flag("rescale", True):
        asked.fault("rescale: false: what stays is always rescaled here")
    if not 0 < density - epsilon < density + epsilon < 1:
        asked.fault(f"epsilon: density ± epsilon ({density:g} ± {epsilon:g}) must lie in (0, 1), in mergekit too")
    asked.note(DRAWS)
    asked.note("in tensors of more than two axes magnitudes are ranked along the last one, mergekit's along the second")
    return {"density": density, "window": 2 * epsilon, "rescale": "norm"}


def _breadcrumbs(asked: Asked) -> dict[str, Any]:
    density, gamma = min(asked.same("density", 1.0), 1.0), asked.same("gamma", 0.01)
    _no_rescale(asked, density)
    gamma = min(gamma, 1.0 - density)  # mergekit cuts off fewer of the largest where it would miss the density
    if density < 1:
        asked.note("numbers of elements are rounded up here and down in mergekit: a tensor keeps up to two more")
    return {"gamma": gamma, "density": min(density / (1.0 - gamma), 1.0) if gamma < 1 else 0.0, "within": "tensor"}


def _no_rescale(asked: Asked, density: float) -> None:
    if asked.flag("rescale", False) and density < 1:
        asked.fault("rescale: true: norms are restored by dare and della only here")


def _sum(weights: list[float]) -> float:
    return sum(abs(w) for w in weights)


def _count(weights: list[float]) -> int:
    """Those that take part: a weight of 0 leaves a contribution out."""
    return sum(w != 0 for w in weights) or 1


WHOLE = "it works on whole weights, the methods here on changes of the base"
METHODS: dict[str, Callable[[Asked], Formula] | str] = {
    "linear": linear, "task_arithmetic": task_arithmetic, "ties": ties, "dare_linear": dare_linear,
    "dare_ties": dare_ties, "della": della, "della_linear": della_linear, "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties, "model_stock": model_stock, "sce": sce, "multislerp": multislerp,
    "slerp": WHOLE, "karcher": WHOLE, "nearswap": WHOLE, "arcee_fusion": WHOLE,
    "nuslerp": "it keeps each change's own length, karcher here their mean",
    "passthrough": "layers are not stacked here", "ram": "it has no counterpart", "ramplus_tl": "it has no counterpart",
}  # fmt: skip
