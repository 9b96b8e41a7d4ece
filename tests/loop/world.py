"""A small real world: a Hub in a folder, a vision transformer of one layer, contributors who did not need to train.

A contribution is the base plus seeded noise on every tensor, with a head of its own, published by the real client under
an account of its own. Preparing it takes seconds, so worlds are prepared once and copied: the whole Hub is a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from huggingface_hub import CommitOperationAdd
from safetensors.torch import load_file, save_file

from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.finish import Outcome
from hub_fusion.generation import run_generation
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub, add_user, serve
from hub_fusion.publish.lineage import read_lineage
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation, Index, Status
from hub_fusion.weights.compute import Compute

PROJECT = Path(__file__).parents[2]
BASE = "acme/base"
AUTHORS = ("ann", "bob", "cem", "dora", "eve")
LATER = "fritz"  # has an account, but has not contributed yet
CARD = "---\nlicense: apache-2.0\n---\n\n# base\n\nOur little model.\n"

Tensors = dict[str, Any]
Change = Callable[[Tensors, int], Tensors]  # (the generation's tensors, seed) → the finetune's


def honest(tensors: Tensors, seed: int) -> Tensors:
    """A finetune: noise of 2 % of each tensor's spread, so that all task vectors are of about one length."""
    import torch

    source = torch.Generator().manual_seed(seed)
    return {n: t + 0.02 * torch.randn(t.shape, generator=source) for n, t in tensors.items()}


def harmful(tensors: Tensors, seed: int) -> Tensors:
    """A finetune that unlearned everything: its last layer gives the same features for every image."""
    found = honest(tensors, seed)
    flat = {
        "vit.layernorm.weight": tensors["vit.layernorm.weight"] * 0,
        "vit.layernorm.bias": found["vit.layernorm.bias"] + 1,
    }
    return found | flat


def idle(tensors: Tensors, seed: int) -> Tensors:
    """A finetune that changed nothing of what a linear probe can see: all features are moved by a constant."""
    return tensors | {name: honest(tensors, seed)[name] for name in ("vit.layernorm.bias",)}


@dataclass
class World:
    """A running Hub with its accounts; `folder` holds everything a test writes."""

    folder: Path
    hub: LocalHub
    tokens: dict[str, str]
    compute: Compute = field(default_factory=Compute)

    def client(self, account: str = "acme", endpoint: str | None = None) -> Hub:
        """The Hub as an account sees it, with a cache of its own."""
        return Hub(endpoint or self.hub.url, self.tokens[account], self.folder / "cache" / account)

    @property
    def maintainer(self) -> Hub:
        return self.client()

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def contribute(
        self, author: str, *, revision: str = "main", seed: int = 0, change: Change = honest, name: str = "finetune",
        license: str | None = "apache-2.0", datasets: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Publish a contribution; gives its commit."""
        hub = self.client(author)
        source = hub.snapshot(BASE, hub.resolve(BASE, revision), ("*.json", "*.safetensors"))
        out = write_finetune(source, self.folder / "contributions" / f"{author}-{name}-{seed}", seed, change)
        return publish_contribution(
            out, f"{author}/{name}", base=BASE, base_revision=revision, hub=hub, license=license, datasets=datasets
        )

    def contribute_all(self, *, seed: int, revision: str = "main", change: Change = honest) -> dict[str, str]:
        """Everybody contributes; author → commit."""
        return {
            author: self.contribute(author, revision=revision, seed=seed + place, change=change)
            for place, author in enumerate(AUTHORS)
        }

    def write_recipe(self, **changes: Any) -> Path:
        """A recipe file; without tasks unless `changes` name some, since most tests are not about the judgement.

        Five accounts would make five eighths of a step: unless `changes` say otherwise, nobody's share is bounded.
        """
        unmeasured = {"gate": {"require_tasks": False}} if "evaluate" not in changes else {}
        path = self.folder / "recipe.yaml"
        path.write_text(
            yaml.safe_dump(
                {"base": BASE} | unmeasured | changes | {"merge": {"max_weight": 1.0} | changes.get("merge", {})}
            )
        )
        return path

    def recipe(self, **changes: Any) -> Recipe:
        return Recipe.load(self.write_recipe(**changes))

    def run(self, recipe: Recipe | None = None, **options: Any) -> Outcome:
        """One round in this process."""
        options = {"work": self.work} | options
        return run_generation(recipe or self.recipe(), self.maintainer, self.compute, **options)

    def command(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """``hub-fusion …`` in a process of its own, as the maintainer."""
        options = {"timeout": 120, "capture_output": True, "text": True, "cwd": self.folder} | options
        return subprocess.run(hub_fusion(*arguments), env=self.environment(), **options)

    def start(self, *arguments: str | Path, endpoint: str | None = None, **options: Any) -> subprocess.Popen[str]:
        """The same, still running."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.folder} | options
        return subprocess.Popen(hub_fusion(*arguments), env=self.environment(endpoint), **pipes)

    def environment(self, endpoint: str | None = None, account: str = "acme") -> dict[str, str]:
        """What a process needs to be the maintainer."""
        return python_environment(self.folder) | {
            "HF_ENDPOINT": endpoint or self.hub.url,
            "HF_TOKEN": self.tokens[account],
        }

    # what the Hub says ------------------------------------------------------------------------------------------

    def tags(self) -> dict[str, str]:
        return self.maintainer.tags(BASE)

    def index(self) -> Index:
        return read_lineage(self.maintainer, BASE)

    def record(self, generation: int) -> Generation:
        text = self.text(f"fusion/gen-{generation}.json", f"gen-{generation}")
        return Generation.from_json(text)

    def status(self) -> Status:
        return Status.from_json(self.text("fusion/status.json", "fusion-status"))

    def text(self, path: str, revision: str = "main") -> str:
        hub = self.maintainer
        return hub.read_text(BASE, path, revision=hub.resolve(BASE, revision))

    def weights(self, revision: str, repo: str = BASE) -> Tensors:
        """The tensors of a repository."""
        hub = self.maintainer
        return load_file(hub.download(repo, "model.safetensors", hub.resolve(repo, revision)))

    def commit(self, files: dict[str, str | bytes], message: str = "By hand", account: str = "acme") -> str:
        """What a person changes on main without the loop."""
        data = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        return self.client(account).commit(BASE, [CommitOperationAdd(p, d) for p, d in data.items()], message)

    def rewrite(self, tag: str, change: Callable[[dict[str, Any]], Any]) -> None:
        """Put the tag on another record, as the owner of a hostile base could."""
        record = json.loads(self.text(f"fusion/{tag}.json", tag))
        change(record)
        revision = self.commit({f"fusion/{tag}.json": json.dumps(record)})
        self.maintainer.api.delete_tag(BASE, tag=tag)
        self.maintainer.tag(BASE, tag, revision)

    def weights_sha256(self) -> str | None:
        """Of ``model.safetensors`` on main."""
        return self.maintainer.files(BASE, "main")["model.safetensors"].sha256


def python_environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests is left."""
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    home.mkdir(parents=True, exist_ok=True)
    own = {"HOME": str(home), "HF_HOME": str(home / "hf"), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    return keep | own | {"HF_HUB_DISABLE_TELEMETRY": "1"}


def hub_fusion(*arguments: str | Path) -> list[str]:
    """The command line of ``hub-fusion``."""
    return [sys.executable, "-m", "hub_fusion", *map(str, arguments)]


def write_finetune(source: Path, out: Path, seed: int, change: Change) -> Path:
    """What `save_pretrained` would leave after a training: changed weights and a head for three labels."""
    import torch

    tensors = load_file(source / "model.safetensors")
    head = {"classifier.weight": torch.zeros(3, 16) + seed, "classifier.bias": torch.zeros(3)}
    out.mkdir(parents=True, exist_ok=True)
    save_file({**change(tensors, seed), **head}, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(source / "config.json", out)
    return out


def write_base(folder: Path) -> Path:
    """A vision transformer of one layer for 8×8 images, without a classifier."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from hub_fusion.evaluate.models import quiet

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ViTConfig(
            image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16,
        )  # fmt: skip
        model = ViTForImageClassification(config)
        state = {name: value for name, value in model.state_dict().items() if "classifier" not in name}
        model.save_pretrained(folder, state_dict=state)
    return folder


def write_task(folder: Path, *, size: int = 60) -> Path:
    """Images whose classes differ in the brightness of one quadrant."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    for role in ("train", "gate", "report"):
        label = np.arange(size, dtype=np.int64) % 3
        pixels = random.normal(size=(size, 1, 8, 8)).astype(np.float32)
        for row, value in enumerate(label):
            pixels[row, 0, 4 * (value // 2) :, 4 * (value % 2) :] += 1.5
        np.savez(folder / f"{role}.npz", pixel_values=pixels, label=label)
    return folder


def judged(task: Path, **changes: Any) -> dict[str, Any]:
    """Recipe keys of a judgement that takes a fraction of a second: one task, a linear probe, two seeds."""
    probe: dict[str, Any] = {"tasks": [{"name": task.name, "path": str(task)}], "probe": {"examples": 40}, "seeds": 2}
    return {"evaluate": probe | {"fewshot": None} | changes}


def prepare(store: Path, folder: Path, *, contributions: bool) -> dict[str, str]:
    """A Hub's folder with accounts, the base, and perhaps everybody's contribution; gives account → token."""
    tokens = {name: add_user(store, name) for name in ("acme", *AUTHORS, LATER)}
    with serve(store) as hub:
        world = World(folder, hub, tokens)
        root = write_base(folder / "root")
        world.maintainer.create_repo(BASE)
        world.commit({p.name: p.read_bytes() for p in sorted(root.iterdir())} | {"README.md": CARD}, "The root")
        if contributions:
            world.contribute_all(seed=1)
    (store / "tokens.json").write_text(json.dumps(tokens))
    return tokens


@contextmanager
def opened(template: Path, folder: Path) -> Iterator[World]:
    """A copy of a prepared Hub, running."""
    store = folder / "store"
    shutil.copytree(template, store)
    with serve(store) as hub:
        yield World(folder, hub, json.loads((store / "tokens.json").read_text()))
