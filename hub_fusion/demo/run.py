"""The demo: a Hub, seven contributors, six who must be refused, and the loop, with real data on real parts.

In every generation the contributors download it, train, and publish with the real client, each under an account and a
token of their own; then one round runs. Everything that is reported is read back from the Hub. It is a smoke test with
real data, not evidence that fusing helps a pretrained model.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.demo.digits import CONTRIBUTORS, EVALUATE, TASK_NAME, write_root, write_task
from hub_fusion.demo.hostile import HOSTILE
from hub_fusion.demo.training import finetune, long_finetune, one_thread
from hub_fusion.errors import HubError, RepoMissing
from hub_fusion.evaluate.suite import measure
from hub_fusion.events import Say
from hub_fusion.generation import run_generation
from hub_fusion.hub import Hub
from hub_fusion.publish.state import BaseState, open_base, read_record
from hub_fusion.recipe import Recipe
from hub_fusion.records import IndexEntry, Scores
from hub_fusion.weights.fuse import folder_sha256
from hub_fusion.weights.random_steps import random_walk
from hub_fusion.weights.remote import fetch_checkpoint

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute

MAINTAINER, BASE_NAME = "demo", "digits-vit"
LICENSE = "apache-2.0"
CARD = f"""---
license: {LICENSE}
library_name: transformers
pipeline_tag: image-classification
---

# digits-vit

A small vision transformer with random weights: generation 0 of a demonstration.
"""


@dataclass(frozen=True)
class Stage:
    """Where the demo plays: the base, a client for every account, and how an account's repository is called."""

    base: str
    maintainer: Hub
    clients: dict[str, Hub]  # account → client with its own token
    repos: dict[str, str]  # account → repository
    private: bool

    @property
    def names(self) -> list[str]:
        """All accounts that contribute."""
        return [c.name for c in CONTRIBUTORS] + [h.name for h in HOSTILE]


def local_stage(url: str, root: Path, cache: Path) -> Stage:
    """Accounts of a local Hub: one for the base, one for each contributor."""
    from hub_fusion.local_hub import add_user

    names = [MAINTAINER, *(c.name for c in CONTRIBUTORS), *(h.name for h in HOSTILE)]
    clients = {name: Hub(url, add_user(root, name), cache_dir=cache) for name in names}
    repos = {name: f"{name}/{BASE_NAME}-{name}" for name in names[1:]}
    return Stage(f"{MAINTAINER}/{BASE_NAME}", clients[MAINTAINER], clients, repos, private=False)


def remote_stage(endpoint: str, cache: Path) -> Stage:
    """One account on any Hub, the real one included: a private repository for each contributor."""
    hub = Hub(endpoint, cache_dir=cache)
    account = hub.account()
    if account is None:
        raise HubError(f"{endpoint} needs a token: set HF_TOKEN, or log in with hf auth login")
    names = [c.name for c in CONTRIBUTORS] + [h.name for h in HOSTILE]
    repos = {name: f"{account}/hub-fusion-demo-{name}" for name in names}
    return Stage(f"{account}/hub-fusion-demo-base", hub, dict.fromkeys(names, hub), repos, private=True)


def clean(stage: Stage) -> None:
    """Delete every repository of the demo."""
    for repo in (stage.base, *stage.repos.values()):
        with suppress(RepoMissing):
            stage.maintainer.delete_repo(repo)


def run_demo(stage: Stage, compute: Compute, *, generations: int, work: Path, say: Say) -> tuple[dict[str, Any], bool]:
    """Grow the base to gen-`generations`; gives what the Hub then says (see `report`) and whether it got there.

    A base that has generations already is continued. After 2 × `generations` attempts it gives up. Everything runs in
    one thread: models this small gain nothing from two, and on a busy machine lose much.
    """
    with one_thread():
        return _run_demo(stage, compute, generations, work, say)


def _run_demo(stage: Stage, compute: Compute, generations: int, work: Path, say: Say) -> tuple[dict[str, Any], bool]:
    began = time.monotonic()
    recipe = write_recipe(stage, work)
    plant(stage, work)
    for attempt in range(2 * generations):
        state = open_base(stage.maintainer, stage.base)
        if state.generation >= generations:
            break
        say(f"attempt {attempt + 1}: {len(CONTRIBUTORS)} contributors train gen-{state.generation}")
        contribute_all(stage, state, work / "contributors", seed=attempt)
        outcome = run_generation(recipe, stage.maintainer, compute, work=work / "round", say=say)
        say(f"{outcome.status}: {outcome.reason}")
    state = open_base(stage.maintainer, stage.base)
    found = report(stage, state)
    say("measuring the controls")
    found["controls"] = controls(stage, recipe, state, compute, work)
    found["seconds"] = round(time.monotonic() - began, 1)
    return found, state.generation >= generations


def write_recipe(stage: Stage, work: Path) -> Recipe:
    """The demo's recipe, also left in `work` for people to read and reuse."""
    if not (work / "tasks" / TASK_NAME).is_dir():
        write_task(work / "tasks" / TASK_NAME)
    data: dict[str, Any] = {
        "base": stage.base,
        "round": {"min_contributions": 5},
        # the settings by which the README's table was made: a task this small has a loud gate, and the demo measures
        # controls of its own
        "gate": {"test": "means", "delta": None},
        "search": {"steps": "first", "control": "off"},
        "merge": {"max_weight": 1.0},  # everybody here is known
        "evaluate": {**EVALUATE, "tasks": [{"name": TASK_NAME, "path": f"tasks/{TASK_NAME}"}]},
    }
    if stage.private:  # everything belongs to one account: name it, allow it, and count repositories, not accounts
        data["contributions"] = {"include": list(stage.repos.values()), "own": True, "private": True}
        data["merge"]["vote"] = "contribution"
    (work / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return Recipe.load(work / "recipe.yaml")


def plant(stage: Stage, work: Path) -> None:
    """Publish the root, unless the base is there already."""
    from huggingface_hub import CommitOperationAdd

    hub = stage.maintainer
    hub.create_repo(stage.base, private=stage.private)
    if "model.safetensors" in hub.files(stage.base, "main"):
        return
    write_root(work / "root")
    files = [CommitOperationAdd(path.name, path) for path in sorted((work / "root").iterdir())]
    hub.commit(stage.base, [*files, CommitOperationAdd("README.md", CARD.encode())], "The root")


def contribute_all(stage: Stage, state: BaseState, folder: Path, *, seed: int) -> None:
    """Everybody downloads the newest generation, trains and publishes; those who must be refused publish too."""
    shutil.rmtree(folder, ignore_errors=True)
    tag = f"gen-{state.generation}"
    for contributor in CONTRIBUTORS:
        hub, out = stage.clients[contributor.name], folder / contributor.name
        generation = fetch_checkpoint(hub, stage.base, state.revision)
        finetune(generation, contributor, out, seed=seed, lora=contributor.lora, base_id=stage.base, revision=tag)
        _publish(stage, contributor.name, out, state, LICENSE, f"digits {', '.join(map(str, contributor.digits))}")
    honest = folder / CONTRIBUTORS[0].name
    for hostile in HOSTILE:
        out = folder / hostile.name
        hostile.make(generation, honest, out)
        _publish(stage, hostile.name, out, state, hostile.license, None)


def _publish(stage: Stage, name: str, out: Path, state: BaseState, license: str, task: str | None) -> None:
    if (out / "pytorch_model.bin").exists():  # publish_contribution refuses pickles, so this goes by the bare client
        from huggingface_hub import ModelCard, ModelCardData

        from hub_fusion.contribute.metadata import contribution_metadata

        data = ModelCardData(**contribution_metadata(stage.base, state.revision, license=license))
        (out / "README.md").write_text(str(ModelCard(f"---\n{data}\n---\n")))
        hub = stage.clients[name]
        hub.create_repo(stage.repos[name], private=stage.private)
        hub.api.upload_folder(repo_id=stage.repos[name], folder_path=out, commit_message="Pickled weights")
        return
    publish_contribution(out, stage.repos[name], base=stage.base, base_revision=state.revision, hub=stage.clients[name],
                         license=license, task=task, private=stage.private)  # fmt: skip


def report(stage: Stage, state: BaseState) -> dict[str, Any]:
    """What the Hub says about all generations: scores on the report part, contributions, refusals."""
    rows = []
    for entry in state.index.generations:
        number = entry.generation or 0
        row: dict[str, Any] = {"generation": number, "tag": f"gen-{number}", "revision": state.revisions[number],
                               "scores": _report_scores(entry), "contributions": [], "refusals": []}  # fmt: skip
        if number:
            record = read_record(stage.maintainer, stage.base, number, state.revisions[number])
            row["contributions"] = [c.model_dump(mode="json") | {"clipped": c.clipped} for c in record.contributions]
            row["refusals"] = [r.model_dump(mode="json", include={"repo", "stage", "code", "reason", "fix"})
                               for r in record.refusals]  # fmt: skip
        rows.append(row)
    rejected = [{"id": e.id, "reason": e.reason} for e in state.index.entries if e.status == "rejected"]
    return {"endpoint": stage.maintainer.endpoint, "base": stage.base, "generations": rows, "rejected": rejected}


def _report_scores(measured: IndexEntry | Scores) -> dict[str, dict[str, float]]:
    means = measured.scores if isinstance(measured, IndexEntry) else measured.means
    return {s.protocol: {"mean": s.mean, "low": s.low, "high": s.high} for s in means if s.role == "report"}


def controls(stage: Stage, recipe: Recipe, state: BaseState, compute: Compute, work: Path) -> dict[str, Any]:
    """The same effort spent otherwise: the best of seven long finetunes, and random steps as long as the real ones."""
    hub = stage.maintainer
    folders = [fetch_checkpoint(hub, stage.base, state.revisions[n]) for n in sorted(state.revisions)]
    if len(folders) < 2:
        return {}
    out = work / "control"

    def judged() -> dict[str, Any]:
        scores = measure(out, recipe.evaluate, weights_sha256=folder_sha256(out), device=compute.device).scores
        shutil.rmtree(out)
        return _report_scores(scores)

    shutil.rmtree(out, ignore_errors=True)
    long = []
    for contributor in CONTRIBUTORS:
        long_finetune(folders[0], contributor, out, generations=len(folders) - 1, seed=0)
        long.append({**judged(), "contributor": contributor.name})
    random_walk(folders[0], out, norms=[_distance(a, b) for a, b in pairwise(folders)], seed=0)
    return {"long_finetune": max(long, key=lambda s: s["fewshot"]["mean"]), "random_deltas": judged()}


def _distance(a: Path, b: Path) -> float:
    """Euclidean distance of two checkpoints over the tensors that both have."""
    from hub_fusion.weights.checkpoint import Checkpoint

    first, second = Checkpoint.open(a), Checkpoint.open(b)
    squares = ((first.read(n).double() - second.read(n).double()).square().sum() for n in first if n in second)
    return float(sum(float(s) for s in squares)) ** 0.5
