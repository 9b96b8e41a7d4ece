"""Does the screen take any real finetune for noise, and any noise for a finetune? How far apart are the two?

    python benchmarks/watch/noise.py [--size small] [--keep FOLDER]

Finetunes of two bases: the demo's vision transformer on digits, from random weights (with --size small this is all),
and all-MiniLM-L6-v2 on text tasks (attacks.py says where model and tasks are looked for): AdamW at several learning
rates and lengths, from one step on, batches of one, SGD, Muon, LoRA, a single layer, embeddings alone, biases alone,
bfloat16 throughout, random labels, weight decay without data, and two with noise on clipped gradients as
private training has. Each is judged as it was saved, in other forms that people publish, and as three kinds of noise
that have its norms. The figure is that of hub_fusion/weights/noise.py, how far two spectra are apart beyond chance;
below APART the screen refuses. --keep trains each only once. The last line is a JSON object of all figures. Text takes
about an hour of one core to train.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from attack_world import FILE, Tensors, weights_of
from noise_finetunes import DIGITS, TEXT, train_digits, train_text
from safetensors.torch import save_file

from hub_fusion.demo.digits import write_root
from hub_fusion.demo.training import one_thread
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.measure import measure
from hub_fusion.weights.noise import APART, find_order

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
from probe import find_model

NOISE = ("gaussian", "shuffled", "flipped")
Found = dict[str, dict[str, float | None]]  # finetune → form → figure


def rounded(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    """Stored as whole numbers of so many bits, one scale for 64 elements, and read back."""
    if tensor.dim() < 2 or tensor.numel() % 64:
        return tensor
    rows, most = tensor.reshape(-1, 64), 2 ** (bits - 1) - 1
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / most
    return ((rows / scale).round() * scale).reshape(tensor.shape)


def forms(base: Tensors, tuned: Tensors) -> Iterator[tuple[str, Tensors]]:
    """What may be published of one finetune, and noise that imitates it."""
    coin = torch.Generator().manual_seed(0)
    yield "as saved", tuned
    yield "bfloat16", {n: t.bfloat16() for n, t in tuned.items()}
    yield "float16", {n: t.half() for n, t in tuned.items()}
    yield "8 bits", {n: rounded(t, 8) for n, t in tuned.items()}
    yield "4 bits", {n: rounded(t, 4) for n, t in tuned.items()}
    for part in (0.5, 0.9, 0.99):
        yield (
            f"{part:.0%} dropped",
            {
                n: t + (tuned[n] - t) * (torch.rand(t.shape, generator=coin) >= part) / (1 - part)
                for n, t in base.items()
            },
        )
    change = {n: tuned[n] - t for n, t in base.items()}
    yield "gaussian", {n: t + torch.randn(t.shape, generator=coin) * change[n].std() for n, t in base.items()}
    mixed = {n: d.reshape(-1)[torch.randperm(d.numel(), generator=coin)].reshape(d.shape) for n, d in change.items()}
    yield "shuffled", {n: t + mixed[n] for n, t in base.items()}
    yield (
        "flipped",
        {n: t + change[n] * (torch.randint(0, 2, t.shape, generator=coin) * 2 - 1) for n, t in base.items()},
    )


def judge(root: Path, tuned: Path, work: Path, compute: Compute) -> dict[str, float | None]:
    """The figure of every form of a finetune."""
    base = {n: t.float() for n, t in weights_of(root / FILE).items() if t.is_floating_point()}
    weights = weights_of(tuned / FILE)
    after = {n: weights[n].float() if n in weights else t for n, t in base.items()}
    sources = []
    for number, (name, tensors) in enumerate(forms(base, after)):
        folder = work / str(number)
        folder.mkdir(exist_ok=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / FILE, {"format": "pt"})
        sources.append(Source(name, folder, root))
    found = find_order(sources, root, measure(sources, root, compute), compute)
    return {source.key: found[i] for i, source in enumerate(sources)}


def show(world: str, found: Found) -> None:
    """A table: form by form, how many are refused and the smallest figure among the others."""
    print(f"\n{world}: {len(found)} finetunes, noise is below {APART:g}\n")
    print("| form | taken for noise | not judged | smallest | median | largest |\n|---|---|---|---|---|---|")
    for form in next(iter(found.values())):
        figures = [one[form] for one in found.values()]
        known = sorted(figure for figure in figures if figure is not None)
        ends = [f"{value:.1f}" for value in (known[0], median(known), known[-1])] if known else ["–"] * 3
        low = sum(figure < APART for figure in known)
        print(f"| {form} | {low} of {len(found)} | {len(figures) - len(known)} | {' | '.join(ends)} |")
    for name, one in found.items():
        low_forms = [f for f, figure in one.items() if f not in NOISE and figure is not None and figure < APART]
        if low_forms:
            print(f"  taken for noise: {name} ({', '.join(low_forms)})")
    print(flush=True)


def main() -> None:
    """Train, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("full", "small"), default="full")
    default = os.environ.get("HUB_FUSION_TASKS", Path(__file__).parents[2].parent / "shared" / "data" / "tasks")
    parser.add_argument("--tasks", type=Path, default=Path(default))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--keep", type=Path, help="where finetunes are kept, and found again")
    asked = parser.parse_args()
    began, compute, told = time.process_time(), Compute(), dict[str, Found]()
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep = asked.keep or work / "finetunes"
        write_root(work / "digits")
        told["digits"] = {}
        for name, options in DIGITS.items():
            tuned = train_digits(work / "digits", keep / "digits" / name, **options)
            told["digits"][name] = judge(work / "digits", tuned, work, compute)
        show("digits", told["digits"])
        if asked.size == "full":
            model, told["text"] = find_model(asked.model), {}
            for name, options in TEXT.items():
                tuned = train_text(model, asked.tasks, keep / "text" / name, **options)
                told["text"][name] = judge(model, tuned, work, compute)
                print(name, json.dumps(told["text"][name]), file=sys.stderr, flush=True)
            show("text", told["text"])
    rounded_figures = {
        world: {n: {f: v if v is None else round(v, 1) for f, v in one.items()} for n, one in found.items()}
        for world, found in told.items()
    }
    print(json.dumps({"size": asked.size, "cpu_seconds": round(time.process_time() - began, 1), **rounded_figures}))


if __name__ == "__main__":
    main()
