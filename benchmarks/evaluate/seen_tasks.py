"""Do statistics from contributors keep the contributors' own tasks better than the mean does? On handwritten digits.

    python benchmarks/evaluate/seen_tasks.py [--size full]      small: half a minute of one core; full: minutes

Contributors of the demo with disjoint digits finetune one root, compute their Gram matrices and Fisher information with
``collect_statistics`` on the images they trained on, and are fused by the mean, by Fisher merging and by RegMean. The
fused body is judged under each contributor's own head, on images of their digits that other contributors own: *seen*
tasks, unseen images. Two roots: the demo's, whose weights are random, and the same after training on the digits 7 to 9,
which no contributor has. Also what the ways to store the statistics cost: bytes, and how far the fused weights move.

One JSON line on stdout. Nothing here says that a method makes a better base.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from hub_fusion.contribute.fisher import find_parameters, fisher_diagonals
from hub_fusion.contribute.open_model import open_model
from hub_fusion.contribute.statistics import collect_statistics
from hub_fusion.contribute.task_batches import task_batches
from hub_fusion.demo.digits import (
    CONTRIBUTORS,
    HELD_OUT,
    Contributor,
    deal_rows,
    load_contributor,
    load_images,
    write_root,
)
from hub_fusion.demo.training import finetune, one_thread
from hub_fusion.evaluate.models import quiet
from hub_fusion.hub import Hub
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.statistics import BESIDE

BY_NAME = {c.name: c for c in CONTRIBUTORS}
GROUPS = (("ada", "ben"), ("ada", "chloe"), ("ben", "chloe"), ("dev", "eli"), ("fay", "gus"), ("ada", "ben", "chloe"))
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "mean": ("mean", {}),
    "fisher": ("fisher", {}),
    "fisher as published": ("fisher", {"cap": 0.0}),
    "regmean": ("regmean", {}),
    "regmean as published": ("regmean", {"normalise": "none"}),
    "regmean, alpha 1": ("regmean", {"alpha": 1.0}),
}
STORED = {"whole": None, "rank 32": 32, "rank 16": 16, "rank 4": 4}


def unseen(contributor: Contributor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the contributor's digits that are somebody else's, and their labels under its head."""
    pixels, labels = load_images()
    mine = np.isin(np.arange(len(labels)), deal_rows(contributor))
    rows = np.flatnonzero(np.isin(labels, contributor.digits) & ~mine)
    rows = rows if len(rows) else np.flatnonzero(np.isin(labels, contributor.digits))
    return torch.from_numpy(pixels[rows]), torch.from_numpy(np.searchsorted(contributor.digits, labels[rows]))


def pretrain(root: Path, out: Path) -> None:
    """The root after training on digits that no contributor has; its head is left out."""
    pixels, labels = load_images()
    rows = np.flatnonzero(np.isin(labels, HELD_OUT))
    with quiet(), one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForImageClassification.from_pretrained(root, num_labels=len(HELD_OUT))
        inputs, targets = torch.from_numpy(pixels[rows]), torch.from_numpy(labels[rows] - HELD_OUT[0])
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model.train()
        for epoch in range(12):
            order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(epoch))
            for part in order.split(16):
                loss = torch.nn.functional.cross_entropy(model(pixel_values=inputs[part]).logits, targets[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.save_pretrained(out, state_dict={n: t for n, t in model.state_dict().items() if "classifier" not in n})


def accuracy(finetune_folder: Path, body: dict[str, torch.Tensor], contributor: Contributor) -> float:
    """Of a body under a contributor's own head."""
    own = load_file(finetune_folder / "model.safetensors")
    whole = {n: body.get(n, t) for n, t in own.items()}
    merged = finetune_folder.parent / "judged"
    merged.mkdir(exist_ok=True)
    save_file(whole, merged / "model.safetensors", metadata={"format": "pt"})
    (merged / "config.json").write_text((finetune_folder / "config.json").read_text())
    with quiet():
        model = AutoModelForImageClassification.from_pretrained(merged).eval()
    pixels, labels = unseen(contributor)
    with torch.no_grad():
        return float((model(pixel_values=pixels).logits.argmax(1) == labels).double().mean())


def fused(root: Path, folders: list[Path], out: Path, method: str, options: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The fused body."""
    sources = tuple(Source(f.name, f, root) for f in folders)
    fuse(FusePlan(root, out, sources, method, options), Compute())
    return load_file(out / "model.safetensors")


def change(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], root: dict[str, torch.Tensor]) -> float:
    """Distance of two fused models over the length of the first's change."""
    apart = torch.cat([(one[n] - other[n]).double().reshape(-1) for n in root]).norm()
    return float(apart / torch.cat([(one[n] - root[n]).double().reshape(-1) for n in root]).norm())


def exact_fisher(folder: Path, task: Path, out: Path, hub: Hub) -> Path:
    """A copy of a finetune whose Fisher information is stored in float32."""
    (out / "fusion").mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    opened = open_model(folder, hub)
    batches, _ = task_batches(opened, task, 256, 8, 128, 0)
    parameters = find_parameters(opened.model, opened.names)
    found = fisher_diagonals(opened.model, parameters, batches, tokens=False, labels=10, seed=0, memory_bytes=10**9)
    save_file({f"fisher/{n}": t.float() for n, t in found}, out / BESIDE)
    return out


def in_16_bits(folders: list[Path], out: Path, dtype: torch.dtype, kind: str) -> list[Path]:
    """Copies of finetunes whose statistics of one kind are rounded."""
    made = []
    for folder in folders:
        copy = out / folder.name
        (copy / "fusion").mkdir(parents=True, exist_ok=True)
        for name in ("model.safetensors", "config.json"):
            (copy / name).write_bytes((folder / name).read_bytes())
        tensors = {n: t.to(dtype) if n.startswith(kind) else t for n, t in load_file(folder / BESIDE).items()}
        with safe_open(folder / BESIDE, "pt") as opened:
            save_file(tensors, copy / BESIDE, metadata=opened.metadata())
        made.append(copy)
    return made


def run(size: str, work: Path) -> dict[str, Any]:
    """All of it."""
    seeds, groups = (range(1), GROUPS[:1]) if size == "small" else (range(2), GROUPS)
    roots = {"random": work / "random", "pretrained": work / "pretrained"}
    write_root(roots["random"])
    pretrain(roots["random"], roots["pretrained"])
    hub = Hub("http://127.0.0.1:1")  # never asked: everything is in folders
    scores: dict[str, dict[str, list[float]]] = {}
    moved: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for title, root in roots.items():
        body = load_file(root / "model.safetensors")
        for seed in seeds:
            folders = {}
            for name in sorted({n for group in groups for n in group}):
                contributor = BY_NAME[name]
                folder = folders[name] = work / title / str(seed) / name
                finetune(root, contributor, folder, seed=seed)
                task = work / "tasks" / name
                task.mkdir(parents=True, exist_ok=True)
                pixels, labels = load_contributor(contributor)
                np.savez(task / "train.npz", pixel_values=pixels, label=labels)
                with one_thread():
                    for stored, rank in STORED.items():
                        done = collect_statistics(folder, task, hub=hub, rank=rank, out=work / "short" / stored / name)
                        sizes[f"gram {stored}"] = done.bytes
                        sizes["gram whole, not shared"] = done.whole_bytes
                    sizes["both"] = collect_statistics(folder, task, hub=hub, kind="both").bytes
                sizes["model"] = (folder / "model.safetensors").stat().st_size
            for group in groups:
                mine, out = [folders[n] for n in group], work / "out"
                results = {m: fused(root, mine, out, *how) for m, how in METHODS.items()}
                for folder, name in zip(mine, group, strict=True):
                    own = accuracy(folder, load_file(folder / "model.safetensors"), BY_NAME[name])
                    scores.setdefault(title, {}).setdefault("own finetune", []).append(own)
                    for method, result in results.items():
                        scores[title].setdefault(method, []).append(accuracy(folder, result, BY_NAME[name]))
                if seed == 0:
                    with one_thread():
                        exact = [exact_fisher(f, work / "tasks" / f.name, work / "exact" / f.name, hub) for f in mine]
                    result = fused(root, exact, out, "fisher", {})
                    moved.setdefault("fisher bf16", []).append(change(result, results["fisher"], body))
                for stored in list(STORED)[1:]:
                    for folder in mine:
                        whole = (folder / BESIDE).read_bytes()
                        (folder / "whole").write_bytes(whole)
                        (folder / BESIDE).write_bytes((work / "short" / stored / folder.name / BESIDE).read_bytes())
                    result = fused(root, mine, out, "regmean", {})
                    moved.setdefault(f"regmean {stored}", []).append(change(results["regmean"], result, body))
                    for folder, name in zip(mine, group, strict=True):
                        scores[title].setdefault(f"regmean {stored}", []).append(
                            accuracy(folder, result, BY_NAME[name])
                        )
                        (folder / BESIDE).write_bytes((folder / "whole").read_bytes())
                for label, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
                    rounded = in_16_bits(mine, work / label, dtype, "activations")
                    result = fused(root, rounded, out, "regmean", {})
                    moved.setdefault(f"gram {label}", []).append(change(results["regmean"], result, body))
    means = {t: {m: round(float(np.mean(v)), 4) for m, v in s.items()} for t, s in scores.items()}
    wins = {t: {m: f"{sum(a > b for a, b in zip(v, s['mean'], strict=True))} better, "
                   f"{sum(a < b for a, b in zip(v, s['mean'], strict=True))} worse of {len(v)}"
                for m, v in s.items() if m != "mean"} for t, s in scores.items()}  # fmt: skip
    most = {k: round(float(np.max(v)), 5) for k, v in moved.items()}
    return {"benchmark": "statistics", "size": size, "accuracy under own heads": means, "against the mean": wins,
            "fused weights moved": most, "bytes": sizes}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(json.dumps(run(arguments.size, Path(work))))


if __name__ == "__main__":
    main()
