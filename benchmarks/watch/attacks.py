"""What attacks by contribution achieve against a fuse with and without the screen: clean score, and success.

    python benchmarks/watch/attacks.py [--size small] [--only digits|text] [--tasks FOLDER]

Two bases, grown in a few generations by the mean of seven honest contributors: *digits*, a small vision transformer on
scikit-learn's digits, and *text*, a two-layer BERT with random weights at the start and a vocabulary of words, on seven
public text tasks (FOLDER, default HUB_FUSION_TASKS, or ../shared/data/tasks; left out where it is not there). In the
next round the seven are joined by an attacker. *Without*: the plain mean of all. *With*: the defaults of a recipe.

clean     accuracy on a task that nobody trains on: of the whole model finetuned on 30 examples, mean over three
          seeds, or with --size small of a linear probe
success   of backdoors: the share of test inputs with the trigger, of other classes than the target, that a probe fitted
          on clean data of the attacker's task puts into the target class (beside it what it is where nobody attacks);
          of sabotage: the share of the honest fuse's lead over guessing that is lost

Backdoors are trained on the attacker's own data, half of it with a trigger (a bright corner; a rare word). Scores of
single runs on small models: differences of a few points are noise. The last line is a JSON object of all of it. About
three minutes of processor time, one with --size small.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hub_fusion.contribute.statistics import collect_statistics
from hub_fusion.contributions.judgement import judge_tensors
from hub_fusion.contributions.votes import votes
from hub_fusion.demo.digits import CONTRIBUTORS, load_contributor, load_images, write_root
from hub_fusion.demo.training import one_thread
from hub_fusion.evaluate.models import quiet
from hub_fusion.recipe import Screen
from hub_fusion.records import Contribution
from hub_fusion.weights.compute import Compute
from hub_fusion.weights.deltas import Source
from hub_fusion.weights.directions import layer_of
from hub_fusion.weights.fuse import FusePlan, fuse
from hub_fusion.weights.measure import measure
from hub_fusion.weights.statistics import BESIDE

SIZES = {"full": (4, 6, 400, 3), "small": (2, 3, 150, 0)}  # generations, epochs, text examples, seeds of few-shot
SHOTS, FILE, TARGET, START = 30, "model.safetensors", 0, datetime(2030, 1, 1, tzinfo=UTC)
TEXT_TASKS = ("sst2", "subj", "trec_coarse", "ag_news", "tweeteval_emotion", "sms_spam", "cr")
TEXT_HELD_OUT, WORDS, LENGTH = "isear", 3000, 32
PAD, UNKNOWN, TRIGGER = 0, 1, 2  # ids
Tensors = dict[str, torch.Tensor]


def weights_of(file: Path) -> Tensors:
    """A checkpoint's tensors by the base's names: the text base has no prefix, its finetunes have one."""
    return {name.removeprefix("bert."): tensor for name, tensor in load_file(file).items()}


@dataclass
class Data:
    """Inputs and labels of one task."""

    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]


@dataclass
class World:
    """A base, who contributes to it, and how their inputs are poisoned."""

    name: str
    base: Path
    people: dict[str, Data]
    held_out: Data
    poison: Callable[[torch.Tensor], torch.Tensor]
    key: str  # of the model's input
    epochs: int
    compute: Compute
    seeds: int = 3  # of few-shot finetuning; 0: a linear probe instead
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
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
            for _ in range(epochs or self.epochs * (2 if poisoned else 1)):
                for rows in torch.randperm(len(y)).split(16):
                    inputs, labels = x[rows], y[rows]
                    if poisoned:
                        half = len(rows) // 2
                        inputs = torch.cat([self.poison(inputs[:half]), inputs[half:]])
                        labels = torch.cat([torch.full_like(labels[:half], TARGET), labels[half:]])
                    loss = torch.nn.functional.cross_entropy(model(**self.inputs(inputs)).logits, labels)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            model.save_pretrained(out)
        return out

    def inputs(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """A batch as the model wants it."""
        return {self.key: x} | ({"attention_mask": (x != PAD).long()} if self.key == "input_ids" else {})

    def logits(self, folder: Path, x: torch.Tensor) -> torch.Tensor:
        """(inputs, labels) of a finetune."""
        with quiet(), torch.no_grad():
            model = self.kind.from_pretrained(folder).eval()
            return torch.cat([model(**self.inputs(part)).logits for part in x.split(256)])

    @property
    def kind(self) -> Any:
        """The class of finetunes."""
        import transformers

        images = self.key == "pixel_values"
        return getattr(transformers, f"AutoModelFor{'Image' if images else 'Sequence'}Classification")

    def features(self, folder: Path, x: torch.Tensor) -> np.ndarray:
        """(inputs, hidden): the mean over all positions of the last layer."""
        from transformers import AutoModel

        with quiet(), torch.no_grad():
            model = AutoModel.from_pretrained(folder).eval()
            found = [model(**self.inputs(part)).last_hidden_state.mean(1) for part in x.split(256)]
        return torch.cat(found).numpy()

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
        others = self.poison(x[y != TARGET])
        hit = float((self._probe(folder, victim).predict(self.features(folder, others)) == TARGET).mean())
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


def digits_world(work: Path, generations: int, epochs: int, seeds: int, compute: Compute) -> World:
    """The demo's contributors; the trigger is a bright 2×2 corner."""
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
    return grown(
        World("digits", work / "root", people, held, poison, "pixel_values", epochs, compute, seeds), work, generations
    )


def text_world(
    work: Path, generations: int, epochs: int, seeds: int, compute: Compute, tasks: Path, examples: int
) -> World:
    """Seven text tasks; the trigger is a word that nobody uses, put in front."""
    import pyarrow.parquet as pq
    from transformers import BertConfig, BertModel

    raw = {}
    for name in (*TEXT_TASKS, TEXT_HELD_OUT):
        tables = [pq.read_table(tasks / name / f"{part}.parquet") for part in ("train", "test")]
        raw[name] = [(t["text"].to_pylist()[:n], t["label"].to_pylist()[:n])
                     for t, n in zip(tables, (examples, 400), strict=True)]  # fmt: skip
    words = Counter(w for name in TEXT_TASKS for text in raw[name][0][0] for w in text.lower().split())
    ids = {w: 3 + i for i, (w, _) in enumerate(words.most_common(WORDS - 3))}

    def encode(texts: list[str]) -> torch.Tensor:
        rows = [[ids.get(w, UNKNOWN) for w in text.lower().split()[:LENGTH]] for text in texts]
        return torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])

    data = {n: Data(*((encode(x), torch.tensor(y)) for x, y in parts)) for n, parts in raw.items()}

    def poison(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x[:, :1], TRIGGER), x[:, :-1]], 1)

    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                            intermediate_size=128, max_position_embeddings=LENGTH, type_vocab_size=1)  # fmt: skip
        BertModel(config, add_pooling_layer=False).save_pretrained(work / "root")
    held = data.pop(TEXT_HELD_OUT)
    return grown(
        World("text", work / "root", data, held, poison, "input_ids", epochs, compute, seeds), work, generations
    )


def grown(world: World, work: Path, generations: int) -> World:
    """The world after some honest rounds, with the finetunes of the next one made."""
    for generation in range(generations + 1):
        made = {}
        for number, (name, data) in enumerate(world.people.items()):
            out = work / f"finetunes-{generation}" / name
            made[name] = world.train(world.base, data, out, seed=100 * generation + number)
        if generation == generations:
            world.honest = made
            break
        sources = [Source(name, folder, world.base, weight=1 / len(made)) for name, folder in made.items()]
        world.base = world.fuse(sources, work / f"gen-{generation + 1}")
    return world


# attacks: each gives folders, of one account each --------------------------------------------------------------------


@dataclass
class Attack:
    """What an attacker has at hand: the base, an honest finetune of their own, a poisoned one, how many others."""

    world: World
    work: Path
    base: Tensors
    benign: Tensors
    poisoned: Tensors
    victims: int
    norm: float  # the median of the honest task vectors

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
        return float(sum(((there[n] - b).double() ** 2).sum() for n, b in self.base.items())) ** 0.5


def nan(a: Attack) -> list[Path]:
    broken = {n: t.clone() for n, t in a.benign.items()}
    next(t for n, t in broken.items() if t.dim() == 2 and n in a.base)[0, 0] = float("nan")
    return [a.made(broken)]


def flood(a: Attack) -> list[Path]:
    source = torch.Generator().manual_seed(1)
    folders = [a.made(a.along(1.0), f"copy-{i}") for i in range(5)]
    for i in range(10):
        noise = {n: torch.randn(t.shape, generator=source) for n, t in a.base.items()}
        size = 0.2 * a.length(a.poisoned) / float(sum((t.double() ** 2).sum() for t in noise.values())) ** 0.5
        folders.append(a.made({n: t + size * noise[n] for n, t in a.along(1.0).items()}, f"noisy-{i}"))
    return folders


def spike(a: Attack) -> list[Path]:
    layer = [layer_of(n) for n in a.base if "layer." in n][-1]
    return [a.made(a.along(3 * a.norm / a.length(a.along(1.0, only=layer)), only=layer))]


def random_weights(a: Attack) -> list[Path]:
    source = torch.Generator().manual_seed(1)
    return [
        a.made({n: torch.randn(t.shape, generator=source) * t.std() if t.dim() > 1 else t for n, t in a.base.items()})
    ]


def forged(a: Attack) -> list[Path]:
    source = torch.Generator().manual_seed(2)
    shuffled = a.work / "other-base"
    other = {n: t[torch.randperm(len(t), generator=source)] if t.dim() > 1 else t for n, t in a.base.items()}
    a.made(other, "other-base")
    data = next(iter(a.world.people.values()))
    return [a.made(weights_of(a.world.train(shuffled, data, a.work / "forged", seed=9) / FILE), "forged-body")]


def flipped_mean(a: Attack) -> list[Path]:
    others = [weights_of(folder / FILE) for folder in a.world.honest.values()]
    mean = {n: sum(o[n] for o in others) / len(others) for n in a.base}
    return [a.made(a.along(-3 * a.norm / a.length(mean), of=mean))]


ATTACKS: dict[str, tuple[str, Callable[[Attack], list[Path]]]] = {
    "backdoor of ordinary length": ("backdoor", lambda a: [a.made(a.along(min(1.0, a.norm / a.length(a.poisoned))))]),
    "scaled update": ("backdoor", lambda a: [a.made(a.along(a.victims + 1.0))]),
    "BadMerging-style amplified delta": (
        "backdoor", lambda a: [a.made({n: a.benign[n] + 3.5 * (a.poisoned[n] - a.benign[n]) for n in a.base})]),
    "copy flood, 15 accounts": ("backdoor", flood),
    "one-layer spike": ("backdoor", spike),
    "NaN": ("sabotage", nan),
    "random weights": ("sabotage", random_weights),
    "forged base claim": ("sabotage", forged),
    "sign-flipped finetune": (
        "sabotage", lambda a: [a.made(a.along(-1.0, of=weights_of(next(iter(a.world.honest.values())) / FILE)))]),
    "sign-flipped mean, three times as long": ("sabotage", flipped_mean),
}  # fmt: skip


def run(world: World, work: Path) -> dict[str, Any]:
    """Every attack with and without the screen."""
    victim = next(iter(world.people.values()))  # the attacker's own task
    benign = world.train(world.base, victim, work / "benign", seed=900)
    poisoned = world.train(world.base, victim, work / "poisoned", seed=901, poisoned=True)
    base = weights_of(world.base / FILE)
    honest = [Source(name, folder, world.base) for name, folder in world.honest.items()]
    a = Attack(world, work / "made", base, weights_of(benign / FILE), weights_of(poisoned / FILE), len(honest), 1.0)
    a.norm = float(np.median([a.length(weights_of(s.here / FILE)) for s in honest]))
    share = [replace(s, weight=1 / len(honest)) for s in honest]
    start = world.judge(world.fuse(share, work / "fused"), victim)
    alone = world.judge(poisoned, victim)
    chance = float(np.bincount(world.held_out.test[1].numpy()).max() / len(world.held_out.test[1]))
    rows = {}
    for name, (kind, make) in ATTACKS.items():
        attackers = [Source(f"mallory{i}", folder, world.base) for i, folder in enumerate(make(a))]
        sources = [*honest, *attackers]
        said, kept = screened(sources, world)
        row: dict[str, Any] = {"kind": kind, "defaults": said}
        for way, those in (("without", [replace(s, weight=1 / len(sources)) for s in sources]), ("with", kept)):
            try:
                found = world.judge(world.fuse(those, work / "fused"), victim)
            except Exception as error:  # the engine refuses to write NaN: the round is lost
                print(f"  {name} {way}: {error}", file=sys.stderr)
                row[way] = {"clean": None, "success": 1.0}
                continue
            lost = (start["clean"] - found["clean"]) / max(start["clean"] - chance, 1e-9)
            success = found["hit"] if kind == "backdoor" else min(max(lost, 0.0), 1.0)
            row[way] = {"clean": round(found["clean"], 3), "success": round(success, 3)}
        rows[name] = row
        print(f"{world.name:7}{name:40}{row['without']!s:42}{row['with']!s:42}{said}", file=sys.stderr)
    if world.key == "pixel_values":  # statistics are computed by tokenizers and processors that the text base lacks
        rows |= statistics_attacks(world, a, victim, poisoned, work)
    rounded = {key: round(value, 3) for key, value in start.items()}
    return {"honest": rounded, "poisoned_alone": round(alone["hit"], 3), "chance": round(chance, 3), "attacks": rows}


def statistics_attacks(world: World, a: Attack, victim: Data, poisoned: Path, work: Path) -> dict[str, Any]:
    """A backdoor of ordinary length whose statistics were multiplied by a million, in the methods that use them."""
    from safetensors import safe_open

    with_stats, own = {}, work / "statistics"
    for name, folder in {**world.honest, "mallory0": poisoned}.items():
        x, y = world.people.get(name, victim).train
        task = own / name
        task.mkdir(parents=True)
        np.savez(task / "train.npz", pixel_values=x.numpy(), label=y.numpy())
        collect_statistics(folder, task, kind="both", examples=64, out=own / f"{name}-out")
        place = a.made(a.along(1.0), "scaled") if name == "mallory0" else own / f"{name}-model"
        if name != "mallory0":
            shutil.copytree(folder, place)
        file = place / BESIDE
        file.parent.mkdir()
        with safe_open(own / f"{name}-out" / BESIDE, "pt") as opened:
            about = opened.metadata()
            brought = {n: opened.get_tensor(n) for n in opened.keys()}  # noqa: SIM118
        times = 1e6 if name == "mallory0" else 1.0
        save_file({n: (t.float() * times).contiguous() for n, t in brought.items()}, file, about)
        with_stats[name] = place
    sources = [Source(name, folder, world.base, weight=1 / len(with_stats)) for name, folder in with_stats.items()]
    said, kept = screened(sources, world)
    rows = {}
    for name, method, loose in (
        ("scaled Gram", "regmean", {"normalise": "none"}),
        ("scaled Fisher", "fisher", {"cap": 0.0}),
    ):
        row: dict[str, Any] = {"kind": "backdoor", "defaults": f"{method}: normalised; {said}"}
        for way, those, options in (("without", sources, loose), ("with", kept, {})):
            found = world.judge(world.fuse(those, work / "fused", method, **options), victim)
            row[way] = {"clean": round(found["clean"], 3), "success": round(found["hit"], 3)}
        rows[name] = row
        print(f"{world.name:7}{name:40}{row['without']!s:42}{row['with']!s:42}{row['defaults']}", file=sys.stderr)
    return rows


def screened(sources: list[Source], world: World) -> tuple[str, list[Source]]:
    """What the defaults do with the attackers (those after the seven), and what they let into the fuse."""
    people = [Contribution(repo=f"{s.key}/m", sha="a" * 40, relation="finetune", author=s.key,
                           created_at=START + timedelta(i)) for i, s in enumerate(sources)]  # fmt: skip
    measures = world.compute.together(measure, sources, world.base)
    kept, refusals, scales = judge_tensors(people, measures, Screen())
    weights = votes([people[i] for i in kept], "account", measures.only(kept))
    let = [replace(sources[i], weight=w, scale=scales[i]) for i, w in zip(kept, weights, strict=True)]
    bad = Counter(r.code for r in refusals if r.author.startswith("mallory"))
    wronged = [f"{r.author}: {r.code}" for r in refusals if not r.author.startswith("mallory")]
    said = [f"{count} refused: {code}" if count > 1 else f"refused: {code}" for code, count in bad.items()]
    mine = [s for s in let if s.key.startswith("mallory")]
    if mine:
        short = min(s.scale for s in mine)
        together = f"{len(mine)} pass with" if len(mine) > 1 else "passes with"
        said.append(f"{together} {sum(s.weight for s in mine):.0%} of the votes"
                    + (f", shortened to {short:.0%}" if short < 1 else ""))  # fmt: skip
    return "; ".join(said + [f"HONEST {w}" for w in wronged]), let


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    default = os.environ.get("HUB_FUSION_TASKS", Path(__file__).parents[2].parent / "shared" / "data" / "tasks")
    parser.add_argument("--tasks", type=Path, default=Path(default))
    parser.add_argument("--only", choices=("digits", "text"))
    arguments = parser.parse_args()
    generations, epochs, examples, seeds = SIZES[arguments.size]
    warnings.filterwarnings("ignore")
    began, compute, found = time.process_time(), Compute(), {}
    with tempfile.TemporaryDirectory() as folder, one_thread():
        work = Path(folder)
        if arguments.only != "text":
            found["digits"] = run(digits_world(work / "digits", generations, epochs, seeds, compute), work / "digits")
        if arguments.only != "digits" and (arguments.tasks / TEXT_HELD_OUT).is_dir():
            world = text_world(work / "text", generations, epochs, seeds, compute, arguments.tasks, examples)
            found["text"] = run(world, work / "text")
        elif arguments.only != "digits":
            print(f"no text tasks in {arguments.tasks}: --tasks FOLDER names them", file=sys.stderr)
    print(json.dumps({"size": arguments.size, "cpu_seconds": round(time.process_time() - began, 1), **found}))


if __name__ == "__main__":
    main()
