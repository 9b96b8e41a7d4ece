"""What attacks.py attacks: a base, who contributes to it honestly, a task that nobody trains on, and a trigger."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from hub_fusion.evaluate.models import quiet
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse

SHOTS, FILE = 30, "model.safetensors"
Tensors = dict[str, torch.Tensor]


def weights_of(file: Path) -> Tensors:
    """A checkpoint's tensors by the base's names: the text base has no prefix, its finetunes have one."""
    return {name.removeprefix("bert."): tensor for name, tensor in load_file(file).items()}


@dataclass
class Data:
    """Inputs and labels of one task, and what a task folder of its training part holds."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    texts: list[str] | None = None

    def write(self, folder: Path) -> None:
        """As a task folder (hub_fusion/evaluate/tasks.py) with its training part alone."""
        folder.mkdir(parents=True)
        x, y = self.train
        if self.texts is None:
            np.savez(folder / "train.npz", pixel_values=x.numpy(), label=y.numpy())
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": self.texts, "label": y.tolist()}), folder / "train.parquet")


@dataclass
class World:
    """A base, who contributes to it, and how their inputs are poisoned."""

    name: str
    base: Path
    people: dict[str, Data]
    held_out: Data
    poison: Callable[[torch.Tensor], torch.Tensor]
    key: str  # of the model's input
    target: int  # the class into which the trigger puts the first contributor's inputs
    epochs: int
    compute: Compute
    lr: float = 1e-3
    longer: int = 2  # times as many epochs for a poisoned finetune
    seeds: int = 3  # of few-shot finetuning; 0: a linear probe instead
    tokenizer: Any = None  # saved beside text models
    honest: dict[str, Path] = field(default_factory=dict)

    def train(
        self, base: Path, data: Data, out: Path, *, seed: int, poisoned: bool = False, epochs: int | None = None
    ) -> Path:
        """A finetune of `base`; `poisoned`: half of each batch has the trigger and the target's label, for longer."""
        x, y = data.train
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.kind.from_pretrained(base, num_labels=int(y.max()) + 1, ignore_mismatched_sizes=True)
            model.train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=self.lr, fused=True)
            for _ in range(epochs or self.epochs * (self.longer if poisoned else 1)):
                for rows in torch.randperm(len(y)).split(16):
                    inputs, labels = x[rows], y[rows]
                    if poisoned:
                        half = len(rows) // 2
                        inputs = torch.cat([self.poison(inputs[:half]), inputs[half:]])
                        labels = torch.cat([torch.full_like(labels[:half], self.target), labels[half:]])
                    with self.precision():
                        logits = model(**self.inputs(inputs)).logits
                    loss = torch.nn.functional.cross_entropy(logits.float(), labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            model.save_pretrained(out)
        if self.tokenizer:
            self.tokenizer.save_pretrained(out)
        return out

    def precision(self) -> torch.autocast:
        """bfloat16 products for texts; weights and their steps stay float32."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.tokenizer is not None)

    def inputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """A batch as the model wants it; of texts (batch, tokens), no longer than the longest."""
        if self.tokenizer is None:
            return {self.key: x}
        mask = x != self.tokenizer.pad_token_id
        longest = int(mask.sum(1).max())
        return {self.key: x[:, :longest], "attention_mask": mask[:, :longest].long()}

    @property
    def kind(self) -> Any:
        """The class of finetunes."""
        import transformers

        images = self.key == "pixel_values"
        return getattr(transformers, f"AutoModelFor{'Image' if images else 'Sequence'}Classification")

    def logits(self, folder: Path, x: torch.Tensor) -> torch.Tensor:
        """(inputs, labels) of a finetune."""
        with quiet(), torch.no_grad():
            model = self.kind.from_pretrained(folder).eval()
            return torch.cat([model(**self.inputs(part)).logits for part in x.split(256)])

    def features(self, folder: Path, x: torch.Tensor) -> np.ndarray:
        """(inputs, hidden): the mean over all positions of the last layer that are not padding."""
        from transformers import AutoModel

        order = torch.arange(len(x)) if self.tokenizer is None else (x != self.tokenizer.pad_token_id).sum(1).argsort()
        found = []
        with quiet(), torch.no_grad(), self.precision():
            model = AutoModel.from_pretrained(folder).eval()
            for part in x[order].split(64 if self.tokenizer else 256):
                given = self.inputs(part)
                last = model(**given).last_hidden_state.float()
                mask = given.get("attention_mask", torch.ones(last.shape[:2])).float().unsqueeze(2)
                found.append((last * mask).sum(1) / mask.sum(1))
        return torch.cat(found)[order.argsort()].numpy()

    def judge(self, folder: Path, victim: Data) -> dict[str, float]:
        """Clean score on the held-out task, and how often the trigger works on the attacker's own."""
        x, y = self.held_out.test
        right = []
        if not self.seeds:
            right = [float((self._probe(folder, self.held_out).predict(self.features(folder, x)) == y.numpy()).mean())]
        for seed in range(self.seeds):
            few = torch.randperm(len(self.held_out.train[1]), generator=torch.Generator().manual_seed(seed))[:SHOTS]
            shots = Data((self.held_out.train[0][few], self.held_out.train[1][few]), self.held_out.test)
            tuned = self.train(folder, shots, folder.parent / "tuned", seed=seed, epochs=20)
            right.append(float((self.logits(tuned, x).argmax(1) == y).float().mean()))
        x, y = victim.test
        others = self.poison(x[y != self.target])
        hit = float((self._probe(folder, victim).predict(self.features(folder, others)) == self.target).mean())
        return {"clean": float(np.mean(right)), "hit": hit}

    def _probe(self, folder: Path, data: Data) -> Any:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = data.train
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(
            self.features(folder, x), y.numpy()
        )

    def fuse(self, sources: list[Source], out: Path, method: str = "mean", **options: Any) -> Path:
        """The candidate."""
        shutil.rmtree(out, ignore_errors=True)
        self.compute.together(fuse, FusePlan(self.base, out, tuple(sources), method, options, 1.0))
        return out

    def grow(self, work: Path, generations: int) -> World:
        """Itself after some honest rounds, with the finetunes of the next one made."""
        for generation in range(generations + 1):
            made = {}
            for number, (name, data) in enumerate(self.people.items()):
                out = work / f"finetunes-{generation}" / name
                made[name] = self.train(self.base, data, out, seed=100 * generation + number)
            if generation == generations:
                self.honest = made
                break
            sources = [Source(name, folder, self.base, weight=1 / len(made)) for name, folder in made.items()]
            self.base = self.fuse(sources, work / f"gen-{generation + 1}")
        return self
