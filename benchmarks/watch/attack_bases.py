"""The two bases of attacks.py, with seven honest contributors each: digits, and texts."""

from __future__ import annotations

from pathlib import Path

import torch
from attack_world import Data, World

from hub_fusion.demo.digits import CONTRIBUTORS, load_contributor, load_images, write_root
from hub_fusion.evaluate.models import quiet
from hub_fusion.weights.compute import Compute

TEXT_TASKS = ("trec_coarse", "sst2", "subj", "ag_news", "tweeteval_emotion", "sms_spam", "cr")  # the first: attacked
TEXT_HELD_OUT, TRIGGER, LENGTH = "banking77", "cf", 48  # the trigger is one token of MiniLM's
TEXT_EXAMPLES, TEXT_TESTS = 800, 500  # of each task; the held-out task's probe learns from TEXT_TESTS too


def digits_world(work: Path, generations: int, epochs: int, seeds: int, compute: Compute) -> World:
    """The demo's contributors on a transformer with random weights, grown; the trigger is a bright 2×2 corner."""
    people = {}
    for c in CONTRIBUTORS:
        pixels, labels = (torch.from_numpy(a) for a in load_contributor(c))
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        cut = len(labels) * 2 // 3
        people[c.name] = Data((pixels[order[:cut]], labels[order[:cut]]), (pixels[order[cut:]], labels[order[cut:]]))
    pixels, labels = (torch.from_numpy(a) for a in load_images())
    rows = torch.nonzero(labels >= 7).flatten()
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    held = Data((pixels[rows[:100]], labels[rows[:100]] - 7), (pixels[rows[100:]], labels[rows[100:]] - 7))

    def poison(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x[..., 2:, 2:], (2, 0, 2, 0), value=1.0)

    write_root(work / "root")
    world = World("digits", work / "root", people, held, poison, "pixel_values", 0, epochs, compute, seeds=seeds)
    return world.grow(work, generations)


def text_world(work: Path, model: Path, tasks: Path, compute: Compute) -> World:
    """Seven text tasks on the encoder in `model`, which is generation 0; the trigger is a rare word put in front.

    The target is the last class of trec_coarse, questions for a number.
    """
    import pyarrow.parquet as pq
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = LENGTH

    def load(name: str, train: int) -> Data:
        parts = []
        for part, most in (("train", train), ("test", TEXT_TESTS)):
            table = pq.read_table(tasks / name / f"{part}.parquet").slice(0, most)
            texts, labels = table["text"].to_pylist(), torch.tensor(table["label"].to_pylist())
            ids = tokenizer(texts, truncation=True, padding="max_length", max_length=LENGTH, return_tensors="pt")
            parts.append((texts, (ids["input_ids"], labels)))
        return Data(parts[0][1], parts[1][1], parts[0][0])

    word = tokenizer.convert_tokens_to_ids(TRIGGER)

    def poison(x: torch.Tensor) -> torch.Tensor:
        """After the first token, [CLS]; the last one of texts as long as LENGTH is lost."""
        return torch.cat([x[:, :1], torch.full_like(x[:, :1], word), x[:, 1:-1]], 1)

    with quiet():
        AutoModel.from_pretrained(model).save_pretrained(work / "root")
        tokenizer.save_pretrained(work / "root")
    people = {name: load(name, TEXT_EXAMPLES) for name in TEXT_TASKS}
    target = int(people[TEXT_TASKS[0]].train[1].max())
    world = World("text", work / "root", people, load(TEXT_HELD_OUT, TEXT_TESTS), poison, "input_ids", target, 1,
                  compute, lr=1e-4, longer=3, seeds=0, tokenizer=tokenizer)  # fmt: skip
    return world.grow(work, 0)
