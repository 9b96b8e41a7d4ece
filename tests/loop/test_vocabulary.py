"""Tokens that contributors added grow the base, generation by generation, and every revision loads with its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from weights.tiny import model, saved, started_from, trained

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.errors import RecordError
from hub_fusion.local_hub import add_user, serve
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import open_base
from hub_fusion.replay import replay
from hub_fusion.reproduce import reproduce
from hub_fusion.subtract import subtract

from .world import AUTHORS, BASE, World

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
EMBEDDING, BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
KEEP: dict[str, Any] = {"merge": {"vocab": "keep"}, "round": {"min_contributions": 2}}
LOAD = """
import sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
for revision in sys.argv[2:]:
    words = AutoTokenizer.from_pretrained(sys.argv[1], revision=revision)
    model, info = AutoModelForMaskedLM.from_pretrained(sys.argv[1], revision=revision, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    print(words.tokenize("w1 <a> <b>")[1:3], model(**words("w1 <a> <b>", return_tensors="pt")).logits.shape[-1])
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A Hub with a masked language model of 40 tokens and its tokenizer."""
    from transformers import BertTokenizerFast

    store = tmp_path / "store"
    tokens = {name: add_user(store, name) for name in ("acme", *AUTHORS)}
    with serve(store) as hub:
        world = World(tmp_path / "world", hub, tokens)
        folder = saved(model("BertForMaskedLM"), tmp_path / "base")
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
        BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(folder)
        world.maintainer.create_repo(BASE)
        card = "---\nlicense: apache-2.0\n---\n# base\n"
        world.commit({p.name: p.read_bytes() for p in sorted(folder.iterdir())} | {"README.md": card}, "The root")
        yield world


def contribute(world: World, author: str, revision: str, *new: str, seed: int = 1, change: Any = None) -> Path:
    """A finetune of a generation that knows more tokens, as people make it; gives its folder."""
    from transformers import AutoTokenizer

    hub = world.client(author)
    source = hub.snapshot(BASE, hub.resolve(BASE, revision), ("*.json", "*.safetensors", "*.txt"))
    made, words = started_from("BertForMaskedLM", source), AutoTokenizer.from_pretrained(source)
    words.add_tokens(list(new))
    if len(words) > made.config.vocab_size:
        made.resize_token_embeddings(len(words), mean_resizing=False)
    folder = world.folder / "contributions" / f"{author}-{revision}-{seed}"
    saved(trained(made, size=0.004, seed=seed), folder)
    words.save_pretrained(folder)
    if change:
        change(folder)
    publish_contribution(folder, f"{author}/finetune", base=BASE, base_revision=revision, hub=hub, license="apache-2.0")
    return folder


def ids(world: World, revision: str) -> dict[str, int]:
    """Text → id of the tokens that a revision's tokenizer has been given."""
    return {e["content"]: e["id"] for e in json.loads(world.text("tokenizer.json", revision))["added_tokens"][5:]}


def mean_of(parts: dict[str, tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Σ weight · part / Σ weight."""
    total = sum(weight for _, weight in parts.values())
    return torch.stack([part * weight for part, weight in parts.values()]).sum(0) / total


def test_three_generations_grow_and_late_contributions_fit_them(world: World, tmp_path: Path) -> None:
    """Tokens are told apart by what they say; whoever lacks a row has left it as it is; records make it again."""
    one = {author: load_file(contribute(world, author, "main", *new, seed=10 + n) / "model.safetensors")
           for n, (author, new) in enumerate({"ann": ("<a>", "<b>"), "bob": ("<b>",), "cem": ()}.items())}  # fmt: skip
    outcome = world.run(world.recipe(**KEEP))
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    record, weights = world.record(1), world.weights("gen-1")
    shares = {c.author: float(c.weight or 0) for c in record.contributions}
    who = {c.author: c.key for c in record.contributions}
    assert [(t.content, t.id, t.rows) for t in record.tokens] == [
        ("<a>", 40, {who["ann"]: 40}), ("<b>", 41, {who["ann"]: 41, who["bob"]: 40})]  # fmt: skip
    for name in (EMBEDDING, BIAS):
        assert len(weights[name]) == 42 and torch.equal(weights[name][40], one["ann"][name][40])
        expected = mean_of({a: (one[a][name][row], shares[a]) for a, row in {"ann": 41, "bob": 40}.items()})
        torch.testing.assert_close(weights[name][41], expected)
    assert ids(world, "gen-1") == {"<a>": 40, "<b>": 41} and ids(world, "gen-0") == {}
    assert json.loads(world.text("config.json", "gen-1"))["vocab_size"] == 42

    started = {"ann": ("gen-1", "<c>"), "bob": ("gen-0", "<b>", "<d>"), "cem": ("gen-1",), "dora": ("gen-0",)}
    two = {author: contribute(world, author, *args, seed=21 + n) for n, (author, args) in enumerate(started.items())}
    outcome = world.run(world.recipe(**KEEP))
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    record, after = world.record(2), world.weights("gen-2")
    assert {c.author: c.generation for c in record.contributions} == {"ann": 1, "bob": 0, "cem": 1, "dora": 0}
    assert ids(world, "gen-2") == {"<a>": 40, "<b>": 41, "<c>": 42, "<d>": 43}
    for name in (EMBEDDING, BIAS):
        change = torch.zeros_like(weights[name][40:])
        for c in record.contributions:
            if c.generation == 1:
                theirs = load_file(two[c.author] / "model.safetensors")[name][40:42]
                change += float(c.weight or 0) * c.scale * (theirs - weights[name][40:])
        torch.testing.assert_close(after[name][40:42], weights[name][40:] + record.step * change)
    assert torch.equal(after[EMBEDDING][43], load_file(two["bob"] / "model.safetensors")[EMBEDDING][41])

    for n, (author, revision) in enumerate({"ann": "gen-2", "bob": "gen-0", "cem": "gen-1"}.items()):
        contribute(world, author, revision, seed=31 + n)
    outcome = world.run(world.recipe(**KEEP))
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    assert world.record(3).tokens == () and len(world.weights("gen-3")[EMBEDDING]) == 44
    for number in (1, 2, 3):
        done = reproduce(world.maintainer, BASE, f"gen-{number}", world.compute, tmp_path / f"again-{number}")
        assert done.equal
    replayed = replay(world.maintainer, BASE, world.compute, tmp_path / "replay", tmp_path / "work")
    assert [generation.equal for generation in replayed] == [True, True, True]
    done = subprocess.run([sys.executable, "-c", LOAD, BASE, "gen-0", "gen-3"], env=world.environment(), text=True,
                          capture_output=True, timeout=120)  # fmt: skip
    assert done.stdout.splitlines() == ["['[UNK]', '[UNK]'] 40", "['<a>', '<b>'] 44"], done.stderr[-2000:]
    assert "by ann/finetune" in world.text("README.md", "gen-1") and "2 new tokens" in world.text("README.md", "gen-1")


def test_a_withdrawn_token_goes_and_its_id_may_be_anothers(world: World) -> None:
    """Tokenizer and configuration go back with the weights; who was trained with the token does not move the other."""
    contribute(world, "ann", "main", "<a>", seed=1)
    contribute(world, "bob", "main", seed=2)
    world.run(world.recipe(**KEEP))
    with pytest.raises(RecordError, match=r"gen-1 has 1 tokens that only .*brought \('<a>' of ann/.*rollback"):
        subtract(world.recipe(**KEEP), world.maintainer, world.compute, "ann/finetune", "asked", work=world.work)
    before = world.weights("gen-1")
    contribute(world, "cem", "gen-1", seed=3)
    roll_back(world.maintainer, open_base(world.maintainer, BASE), 1, "a mistake")
    assert ids(world, "main") == {} and json.loads(world.text("config.json"))["vocab_size"] == 40
    contribute(world, "dora", "main", "<z>", seed=4)
    recipe = world.recipe(**KEEP, contributions={"block": ["ann", "bob"]})
    outcome = world.run(recipe)
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    assert {c.author: c.generation for c in world.record(2).contributions} == {"cem": 1, "dora": 0}
    assert ids(world, "gen-2") == {"<z>": 40}
    contribute(world, "eve", "gen-1", seed=5)
    contribute(world, "dora", "gen-2", seed=6)
    outcome = world.run(recipe)
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    assert {c.author: c.generation for c in world.record(3).contributions} == {"eve": 1, "dora": 2}
    row, late = (
        world.weights("gen-2")[EMBEDDING][40],
        load_file(world.folder / "contributions/dora-gen-2-6/model.safetensors"),
    )
    share = next(c for c in world.record(3).contributions if c.author == "dora")
    expected = row + world.record(3).step * float(share.weight or 0) * share.scale * (late[EMBEDDING][40] - row)
    torch.testing.assert_close(world.weights("gen-3")[EMBEDDING][40], expected)
    assert not torch.equal(before[EMBEDDING][40], row)


def invisible(folder: Path) -> None:
    """Its tokenizer has a token that turns the reading direction."""
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"][-1]["content"] = "<a\u202e>"
    (folder / "tokenizer.json").write_text(json.dumps(data))


def enormous(folder: Path) -> None:
    """The row of its new token is a hundred times as long as any other, which no gate without that token sees."""
    tensors = load_file(folder / "model.safetensors")
    tensors[EMBEDDING][40] = 100 * tensors[EMBEDDING].norm(dim=1).max()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def broken(folder: Path) -> None:
    """The row of its new token is not finite; a fuse would end with it."""
    tensors = load_file(folder / "model.safetensors")
    tensors[BIAS][40] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def silent(folder: Path) -> None:
    """Nobody says which token its new row is; that is left out, and the rest taken."""
    (folder / "tokenizer.json").unlink()


def test_hostile_tokens_are_refused_and_the_round_goes_on(world: World, tmp_path: Path) -> None:
    """A gate that reads plain text goes on comparing the same tokens: those that occur there are left out."""
    for n, (author, change) in enumerate(
        {"ann": invisible, "bob": enormous, "cem": broken, "dora": silent, "eve": None}.items()
    ):
        contribute(world, author, "main", "<x>", "w1w2", seed=n, change=change)
    for part in ("gate", "report"):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / f"{part}.txt").write_text(" ".join(f"W{n % 7}W{n % 5}" for n in range(200)))
    tasks = {"tasks": [{"name": "text", "path": str(tmp_path / "text")}], "seeds": 2}
    loose = {"epsilon": 9.0, "epsilon_root": 9.0, "delta": None, "test": "means"}
    recipe = world.recipe(**KEEP, evaluate=tasks, search={"control": "off"}, gate=loose)
    for author, accepted in {"ann": False, "dora": True, "eve": True}.items():
        for target in (
            f"{author}/finetune",
            str(world.folder / "contributions" / f"{author}-main-{AUTHORS.index(author)}"),
        ):
            told = check_contribution(target, hub=world.client(author), base=BASE, recipe=recipe)
            assert ("unusable_tokens" not in {r.code for r in told.refusals}) == accepted, told
    outcome = world.run(recipe)
    assert outcome.status == "published", (outcome.reason, outcome.refusals)
    assert {r.author: r.code for r in outcome.refusals} == dict.fromkeys(("ann", "bob", "cem"), "unusable_tokens")
    reasons = {r.author: r.reason for r in outcome.refusals}
    assert "cannot be seen" in reasons["ann"] and "norm nan" in reasons["cem"] and "is allowed" in reasons["bob"]
    assert all(reason.isprintable() for reason in reasons.values())
    assert ids(world, "gen-1") == {"<x>": 40} and len(world.weights("gen-1")[EMBEDDING]) == 41
    record = world.record(1)
    assert [list(t.rows) for t in record.tokens] == [[c.key for c in record.contributions if c.author == "eve"]]


def test_a_token_that_somebody_else_brought_too_stays_when_one_is_subtracted(world: World, tmp_path: Path) -> None:
    """Its row is then theirs alone, under the same id; stages that run alone make the same bytes as a round."""
    rows = {author: load_file(contribute(world, author, "main", "<a>", seed=n) / "model.safetensors")[EMBEDDING][40]
            for n, author in enumerate(("ann", "bob", "cem"))}  # fmt: skip
    recipe = world.write_recipe(**KEEP)
    queue = world.run(world.recipe(**KEEP), dry_run=True).queue
    (tmp_path / "kept.jsonl").write_text("\n".join(c.to_json() for c in queue))
    done = world.command("fuse", "--from", tmp_path / "kept.jsonl", "-r", recipe, "--out", tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    outcome = world.run(world.recipe(**KEEP, publish={"mode": "pull-request"}))
    assert outcome.status == "proposed", (outcome.reason, outcome.refusals)
    world.maintainer.api.merge_pull_request(BASE, 1)
    world.run(world.recipe(**KEEP, publish={"mode": "pull-request"}))
    assert ids(world, "gen-1") == {"<a>": 40}
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        hub = world.maintainer
        assert (tmp_path / "alone" / name).read_bytes() == hub.download(
            BASE, name, hub.resolve(BASE, "gen-1")
        ).read_bytes()
    outcome = subtract(world.recipe(**KEEP), world.maintainer, world.compute, "ann/finetune", "asked", work=world.work)
    assert outcome.status == "published", outcome.reason
    assert ids(world, "gen-2") == {"<a>": 40} and len(world.record(2).tokens[0].rows) == 2
    torch.testing.assert_close(world.weights("gen-2")[EMBEDDING][40], (rows["bob"] + rows["cem"]) / 2)
