"""Small changes add up over published generations, and every revision carries the residual of its own weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from hub_fusion.replay import replay
from hub_fusion.reproduce import reproduce

from .world import BASE, Tensors, World

FILE = "fusion/residual-00001-of-00001.st"


def grown(tensors: Tensors, seed: int) -> Tensors:
    """A finetune that made every weight a thousandth larger, and a little noise so that no two are copies."""
    source = torch.Generator().manual_seed(seed)
    return {n: t.float() * (1 + 1e-3 + 3e-4 * torch.randn(t.shape, generator=source)) for n, t in tensors.items()}


def known(world: World, tag: str) -> Tensors:
    """Weights + residual of a generation."""
    hub = world.maintainer
    lost = load_file(hub.download(BASE, FILE, hub.resolve(BASE, tag)))
    weights = world.weights(tag)
    return {n: weights[n].double() + lost[n].double() for n in lost}


def test_a_loop_with_residuals_keeps_what_each_generation_lost(empty: World, tmp_path: Path) -> None:
    """Three generations of a bf16 base, published, reproduced and replayed; the last one stops keeping residuals."""
    world = empty
    start = {n: t.bfloat16() for n, t in world.weights("main").items()}
    world.commit({"model.safetensors": save(start, {"format": "pt"})})
    for number in (1, 2, 3):
        world.contribute_all(seed=10 * number, revision=f"gen-{number - 1}" if number > 1 else "main", change=grown)
        outcome = world.run(world.recipe(merge={"residual": number < 3}))
        assert (outcome.status, outcome.generation) == ("published", number), outcome.reason
        assert outcome.record is not None and outcome.record.formula is not None
        assert outcome.record.formula.residual == (number < 3)
    files = [set(world.maintainer.files(BASE, world.maintainer.resolve(BASE, f"gen-{n}"))) for n in range(4)]
    assert [FILE in names for names in files] == [False, True, True, False]
    for number in (1, 2):
        state = known(world, f"gen-{number}")
        norm = sum(float((state[n] - start[n].double()).square().sum()) for n in state) ** 0.5
        size = sum(float(start[n].double().square().sum()) for n in state) ** 0.5
        assert 0.9e-3 * number < norm / size < 1.2e-3 * number
    for number in (1, 2, 3):
        done = reproduce(world.maintainer, BASE, f"gen-{number}", world.compute, tmp_path / f"again-{number}")
        assert done.equal
    replayed = replay(world.maintainer, BASE, world.compute, tmp_path / "replay", tmp_path / "work")
    assert [generation.equal for generation in replayed] == [True, True, True]
