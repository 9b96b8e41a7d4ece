"""The screen's answer to noise, on a Hub: a finetune of digits is fused, its imitation is refused or noted."""

from __future__ import annotations

import secrets
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from hub_fusion.contributions.screen import Screened, screen
from hub_fusion.demo.digits import CONTRIBUTORS, write_root
from hub_fusion.demo.training import finetune
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user
from hub_fusion.recipe import Recipe
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.remote import Spool

from .world import World


def test_noise_is_refused_with_a_fix_or_noted_as_the_recipe_says(server: LocalHub, tmp_path: Path) -> None:
    """In a round of three, where nothing can be compared with others, and with a change too small to be judged."""
    root, real = tmp_path / "root", tmp_path / "real"
    write_root(root)
    finetune(root, CONTRIBUTORS[0], real, seed=1, epochs=1)
    before, after = load_file(root / "model.safetensors"), load_file(real / "model.safetensors")
    coin = torch.Generator().manual_seed(1)
    noise = {n: t + torch.randn(t.shape, generator=coin) * (after[n] - t).std() if t.dim() > 1 else after[n]
             for n, t in before.items()}  # fmt: skip
    biases = {n: after[n] if t.dim() == 1 else t for n, t in before.items()}
    owner = f"org{secrets.token_hex(3)}"
    world = World(server, tmp_path, f"{owner}/base", Hub(server.url, add_user(server.root, owner), tmp_path / "cache"))
    world.hub.api.create_repo(world.base)
    config = (root / "config.json").read_bytes()
    world.commit(world.base, {"config.json": config, "model.safetensors": (root / "model.safetensors").read_bytes()})
    found = [world.contribution(world.contribute({"config.json": config, "model.safetensors": save(tensors)}))
             for tensors in (after, noise, biases)]  # fmt: skip

    def screened(rule: str) -> tuple[Screened, list[str]]:
        said: list[str] = []
        recipe = Recipe.model_validate({"base": world.base, "screen": {"noise": rule}})
        spool = Spool(tmp_path / "spool", 10**9)
        return screen(world.hub, found, recipe, root, {0: root}, spool, Compute(), said.append), said

    result, said = screened("refuse")
    assert [c.repo for c in result.contributions] == [found[0].repo, found[2].repo]
    (refusal,) = result.refusals
    assert (refusal.repo, refusal.stage, refusal.code) == (found[1].repo, "screen", "noise")
    assert "random numbers" in refusal.reason and "training" in refusal.fix
    assert [line for line in said if "no matrix" in line and found[2].repo in line]
    result, said = screened("note")
    assert len(result.contributions) == 3 and not result.refusals
    assert [line for line in said if found[1].repo in line and "random numbers" in line]
    result, said = screened("off")
    assert len(result.contributions) == 3 and not [line for line in said if "random" in line or "no matrix" in line]
