"""What the README says works: its blocks are run in order, in one small world behind a real Hub.

The world: accounts acme (the base), ann and bob (finetunes), a base with generations to point at, checkpoints in
folders. Blocks that start the demo, the tests or a server are started in the form that a test can wait for.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from hub_fusion.evaluate.models import quiet
from hub_fusion.hub import Hub
from hub_fusion.local_hub import add_user, serve

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(heading: str, language: str) -> list[str]:
    """The README's code blocks of one language under one heading."""
    sections = re.split(r"^## ", README, flags=re.MULTILINE)
    section = next(s for s in sections if s.startswith(heading)) if heading else sections[0]
    return [text for found, text in BLOCK.findall(section) if found == language]


@dataclass(frozen=True)
class World:
    """A Hub, a folder to work in, and tokens."""

    url: str
    folder: Path
    tokens: dict[str, str]

    def run(self, command: list[str], account: str) -> str:
        """Run a command as somebody; gives stdout. Fails with what it said on stderr."""
        environment = os.environ | {
            "HF_ENDPOINT": self.url, "HF_TOKEN": self.tokens[account], "HF_HOME": str(self.folder / "hf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1", "HUB_FUSION_ROUND__MIN_CONTRIBUTIONS": "2", "HUB_FUSION_EVALUATE__SEEDS": "1",
            "HUB_FUSION_EVALUATE__FEWSHOT": "{examples: 4, epochs: 1}", "HUB_FUSION_GATE__EPSILON": "1",
            "HUB_FUSION_EVALUATE__TASKS": f"[{{name: t, path: {self.folder / 'task'}}}, "
            f"{{name: sentiment, path: {self.folder / 'task'}, role: seen}}]", "HUB_FUSION_HEADS__KIND": "refit",
        }  # fmt: skip
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


def save_model(folder: Path, seed: int, noise: float) -> None:
    """A tiny BERT: the same base for all seeds, plus seeded noise."""
    with quiet():
        torch.manual_seed(0)
        model = BertModel(BertConfig(vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=8, max_position_embeddings=16))  # fmt: skip
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
        model.save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(ord("a") + i) for i in range(25))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')


def save_lora(base: Path, folder: Path) -> None:
    """A LoRA adapter of the base."""
    from peft import LoraConfig, get_peft_model

    with quiet():
        adapter = get_peft_model(BertModel.from_pretrained(base), LoraConfig(r=2, target_modules=["query"]))
        torch.nn.init.normal_(adapter.base_model.model.encoder.layer[0].attention.self.query.lora_B["default"].weight)
        adapter.save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The world that the README's reader lives in; bob contributed before they came."""
    from hub_fusion.contribute.upload import publish_contribution

    folder = tmp_path_factory.mktemp("readme")
    tokens = {name: add_user(folder / "store", name) for name in ("acme", "ann", "bob")}
    save_model(folder / "my-base", 0, 0.0)
    save_model(folder / "my-finetune", 1, 0.01)
    save_model(folder / "bobs", 2, 0.01)
    save_lora(folder / "my-base", folder / "my-lora")
    (folder / "task").mkdir()
    letters = np.random.default_rng(0).choice(list("abcdefgh"), (40, 5))
    for part in ("train", "gate", "report"):
        rows = "".join(f"{' '.join(letters[i])},{i % 2}\n" for i in range(40))
        (folder / "task" / f"{part}.csv").write_text(f"text,label\n{rows}")
    with serve(folder / "store") as server:
        acme = Hub(server.url, tokens["acme"], cache_dir=folder / "cache-acme")
        acme.create_repo("acme/base")
        acme.api.upload_folder(repo_id="acme/base", folder_path=folder / "my-base")
        for tag in ("gen-0", "gen-6"):
            acme.tag("acme/base", tag, acme.branches("acme/base")["main"])
        bob = Hub(server.url, tokens["bob"], cache_dir=folder / "cache-bob")
        started_from = {"base": "acme/base", "base_revision": "gen-0"}
        publish_contribution(folder / "bobs", "bob/topics", **started_from, hub=bob, license="mit")
        yield World(server.url, folder, tokens)


def test_generations_load_and_training_becomes_a_contribution(world: World) -> None:
    """The two lines for loading, and the two for Trainer (run with a real one)."""
    load = blocks("", "python")[0]
    callback = blocks("Contribute to a base", "python")[0]
    trainer = (
        "from transformers import Trainer, TrainingArguments\n"
        "trainer = Trainer(model, TrainingArguments('out', use_cpu=True, report_to=[]))\n"
    )
    world.run([sys.executable, "-c", load + trainer + callback], "ann")
    Hub(world.url, world.tokens["acme"]).api.delete_tag("acme/base", tag="gen-6")


def test_the_contributors_commands_run(world: World) -> None:
    """What ann publishes is accepted by the check."""
    for command in blocks("Contribute to a base", "bash")[0].splitlines():
        world.run(["bash", "-ec", command], "ann")


def test_the_maintainers_commands_publish_a_generation_and_the_stages_another(world: World) -> None:
    """`run` and `watch` make gen-1; after new commits the stages, one by one, make gen-2."""
    loop, stages = blocks("Run a base", "bash")
    said = world.run(["bash", "-ec", loop], "acme")
    assert "gen-1" in said
    hub = Hub(world.url, world.tokens["acme"])
    assert set(hub.tags("acme/base")) == {"gen-0", "gen-1"}
    assert world.run([sys.executable, "-c", blocks("Run a base", "python")[0]], "ann").strip() in ("['0']", "['1']")
    for account, folder, repo in (("ann", "my-finetune", "ann/sentiment"), ("bob", "bobs", "bob/topics")):
        save_model(world.folder / folder, len(repo), 0.02)
        command = f"hub-fusion contribute {folder} {repo} --base acme/base --revision gen-1 --license mit"
        world.run(["bash", "-ec", command], account)
    world.run(["bash", "-o", "pipefail", "-ec", stages], "acme")
    assert set(hub.tags("acme/base")) == {"gen-0", "gen-1", "gen-2"}


def test_merging_needs_no_loop(world: World) -> None:
    """The command and the function give the same tensors for the same weights."""
    save_model(world.folder / "my-finetune", 1, 0.01)
    said = world.run(["bash", "-ec", blocks("Only merge", "bash")[0]], "ann")
    assert "mean" in said
    assert (world.folder / "merged" / "model.safetensors").is_file()
    shutil.rmtree(world.folder / "merged")
    world.run([sys.executable, "-c", blocks("Only merge", "python")[0]], "ann")
    assert (world.folder / "merged" / "model.safetensors").is_file()


def test_a_hub_is_served_from_a_folder(world: World) -> None:
    """`hub serve` answers until it is stopped."""
    add, run = (line.partition("#")[0].split() for line in blocks("A Hub on this machine", "bash")[0].splitlines())
    assert world.run(add, "acme").startswith("hf_")
    run[run.index("--port") + 1] = "0"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    with subprocess.Popen(run, cwd=world.folder, env=environment, stdout=subprocess.PIPE, text=True) as hub:
        assert hub.stdout is not None
        assert hub.stdout.readline().startswith("http://127.0.0.1:")
        hub.terminate()
        try:
            assert hub.wait(20) == 0
        finally:
            hub.kill()


def test_the_two_commands_are_in_the_makefile() -> None:
    """`make demo` and `make test`."""
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in re.findall(r"make ([a-z]+)", blocks("See it run", "bash")[0]):
        assert command in targets


def test_the_tree_is_the_tree() -> None:
    """Every folder and module that the README's tree names is there, and none is missing from it."""
    tree = blocks("Where things are", "text")[0]
    inside = {line.split()[1].rstrip("/") for line in tree.splitlines() if line.startswith(("├", "└"))}
    there = {p.name for p in (ROOT / "hub_fusion").iterdir() if not p.name.startswith("_")}
    assert inside == there
    for line in tree.splitlines():
        if not line.startswith(("├", "└", "hub_fusion")):
            assert (ROOT / line.split()[0]).is_dir(), line


def test_links_to_files_lead_somewhere() -> None:
    """Relative links name files of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
