"""The attacks of attacks.py: what an attacker has at hand, and the folders that each attack uploads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from attack_world import FILE, Tensors, World, weights_of
from safetensors.torch import save_file

from hub_fusion.weights.directions import layer_of


@dataclass
class Attack:
    """What an attacker has at hand: the base, an honest finetune of their own, a poisoned one, how many others."""

    world: World
    work: Path
    base: Tensors
    benign: Tensors
    poisoned: Tensors
    victims: int
    norm: float = 1.0  # the median of the honest task vectors

    def made(self, tensors: Tensors, name: str = "x") -> Path:
        """A folder with these weights."""
        out = self.work / name
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(next(iter(self.world.honest.values())), out)
        save_file({n: t.contiguous() for n, t in tensors.items() if n in self.base}, out / FILE, {"format": "pt"})
        return out

    def along(self, times: float, of: Tensors | None = None, only: str | None = None) -> Tensors:
        """The base and so many times the (poisoned) change, in one layer or all."""
        there = of or self.poisoned
        return {n: b + (times * (there[n] - b) if only in (None, layer_of(n)) else 0) for n, b in self.base.items()}

    def length(self, there: Tensors) -> float:
        """Of the change."""
        return float(sum(((there[n] - b).double() ** 2).sum() for n, b in self.base.items())) ** 0.5


def ordinary(a: Attack) -> list[Path]:
    """The backdoor, no longer than the median honest change."""
    return [a.made(a.along(min(1.0, a.norm / a.length(a.poisoned))))]


def scaled(a: Attack) -> list[Path]:
    """So that after the mean the attacker's model is what is left."""
    return [a.made(a.along(a.victims + 1.0))]


def amplified(a: Attack) -> list[Path]:
    """An honest finetune and 3.5 times what the poison changes in it."""
    return [a.made({n: a.benign[n] + 3.5 * (a.poisoned[n] - a.benign[n]) for n in a.base})]


def flood(a: Attack) -> list[Path]:
    """Five copies, and ten with noise of a fifth of the change's length."""
    source = torch.Generator().manual_seed(1)
    folders = [a.made(a.along(1.0), f"copy-{i}") for i in range(5)]
    for i in range(10):
        noise = {n: torch.randn(t.shape, generator=source) for n, t in a.base.items()}
        size = 0.2 * a.length(a.poisoned) / float(sum((t.double() ** 2).sum() for t in noise.values())) ** 0.5
        folders.append(a.made({n: t + size * noise[n] for n, t in a.along(1.0).items()}, f"noisy-{i}"))
    return folders


def many(a: Attack) -> list[Path]:
    """Three models, each trained on its own with the same trigger, no longer than the median honest change."""
    data, folders = next(iter(a.world.people.values())), []
    for i in range(3):
        own = weights_of(a.world.train(a.world.base, data, a.work / "own", seed=910 + i, poisoned=True) / FILE)
        folders.append(a.made(a.along(min(1.0, a.norm / a.length(own)), of=own), f"own-{i}"))
    return folders


def mirrored(a: Attack) -> list[Path]:
    """The first honest finetune's change, subtracted."""
    return [a.made(a.along(-1.0, of=weights_of(next(iter(a.world.honest.values())) / FILE)))]


def mirrored_mean(a: Attack) -> list[Path]:
    """The mean of the honest changes, subtracted, three times as long as the median of them."""
    others = [weights_of(folder / FILE) for folder in a.world.honest.values()]
    mean = {n: sum(o[n] for o in others) / len(others) for n in a.base}
    return [a.made(a.along(-3 * a.norm / a.length(mean), of=mean))]


def nan(a: Attack) -> list[Path]:
    """One number of an honest finetune."""
    broken = {n: t.clone() for n, t in a.benign.items()}
    next(t for n, t in broken.items() if t.dim() == 2 and n in a.base)[0, 0] = float("nan")
    return [a.made(broken)]


def random_weights(a: Attack) -> list[Path]:
    """Matrices of noise with the base's spread."""
    source = torch.Generator().manual_seed(1)
    return [
        a.made({n: torch.randn(t.shape, generator=source) * t.std() if t.dim() > 1 else t for n, t in a.base.items()})
    ]


def noise(a: Attack) -> list[Path]:
    """Of an honest finetune its norms alone, tensor by tensor, in random directions."""
    source = torch.Generator().manual_seed(3)
    return [
        a.made({n: b + torch.randn(b.shape, generator=source) * (a.benign[n] - b).square().mean() ** 0.5
                for n, b in a.base.items()})
    ]  # fmt: skip


def shuffled(a: Attack) -> list[Path]:
    """An honest finetune's change with the elements of each tensor in another order."""
    source, made = torch.Generator().manual_seed(4), {}
    for n, b in a.base.items():
        change = (a.benign[n] - b).reshape(-1)
        made[n] = b + change[torch.randperm(len(change), generator=source)].reshape(b.shape)
    return [a.made(made)]


def spike(a: Attack) -> list[Path]:
    """The backdoor's change in the last layer alone, three times as long as a whole honest one."""
    layer = [layer_of(n) for n in a.base if "layer." in n][-1]
    return [a.made(a.along(3 * a.norm / a.length(a.along(1.0, only=layer)), only=layer))]


def forged(a: Attack) -> list[Path]:
    """A finetune of another base: this one with the rows of its matrices shuffled."""
    source = torch.Generator().manual_seed(2)
    shuffled = a.work / "other-base"
    other = {n: t[torch.randperm(len(t), generator=source)] if t.dim() > 1 else t for n, t in a.base.items()}
    a.made(other, "other-base")
    data = next(iter(a.world.people.values()))
    return [a.made(weights_of(a.world.train(shuffled, data, a.work / "forged", seed=9) / FILE), "forged-body")]


ATTACKS: dict[str, tuple[str, Callable[[Attack], list[Path]]]] = {  # each folder is of another account
    "backdoor of ordinary length": ("backdoor", ordinary),
    "scaled update": ("backdoor", scaled),
    "BadMerging-style amplified delta": ("backdoor", amplified),
    "copy flood, 15 accounts": ("backdoor", flood),
    "three accounts, each its own backdoor": ("backdoor", many),
    "sign-flipped finetune": ("sabotage", mirrored),
    "sign-flipped mean, three times as long": ("sabotage", mirrored_mean),
    "NaN": ("sabotage", nan),
    "random weights": ("sabotage", random_weights),
    "noise of an honest length": ("sabotage", noise),
    "honest change, shuffled": ("sabotage", shuffled),
    "one-layer spike": ("backdoor", spike),
    "forged base claim": ("sabotage", forged),
}
