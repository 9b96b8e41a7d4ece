"""What publish_contribution uploads is a contribution: found, allowed, and compared with the right generation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from contributions.world import QUERY, World, adapter_files, finetuned
from safetensors.torch import save

from hub_fusion.contribute.check import check_contribution
from hub_fusion.contribute.metadata import contribution_metadata
from hub_fusion.contribute.upload import publish_contribution, publish_statistics
from hub_fusion.contributions.discover import discover
from hub_fusion.contributions.origin import Generations, resolve_origin
from hub_fusion.errors import HubFusionError, RepoMissing
from hub_fusion.hub import Hub
from hub_fusion.recipe import Recipe
from hub_fusion.records import weights_identity
from hub_fusion.weights.checkpoint import file_sha256

SINGLE = "model.safetensors"


@pytest.fixture
def ann(world: World) -> Hub:
    """The Hub as a contributor sees it."""
    return Hub(world.server.url, world.api("ann").token, world.folder / "ann")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a training leaves behind."""
    made = tmp_path / "output"
    made.mkdir()
    for name, data in {
        SINGLE: save(finetuned(1)),
        "config.json": b"{}",
        "vocab.txt": b"a\n",
        "tokenizer.json": b"{}",
    }.items():
        (made / name).write_bytes(data)
    return made


def published(world: World, repo: str) -> dict[str, object]:
    """The front matter on the Hub."""
    text = world.hub.read_text(repo, "README.md")
    return dict(yaml.safe_load(text.split("---\n")[1]))


@pytest.mark.parametrize("revision", ["gen-0", "gen-1", "main"])
def test_a_published_finetune_is_found_accepted_and_knows_its_generation(
    world: World, ann: Hub, folder: Path, revision: str
) -> None:
    """The revision is recorded as a commit: main and tags can move, the generation it started from cannot."""
    repo = f"ann/finetune-{revision}"
    sha = publish_contribution(folder, repo, base=world.base, base_revision=revision, hub=ann, license="mit",
                               task="sentiment", datasets=["imdb"])  # fmt: skip
    assert sha == world.hub.resolve(repo)
    card = published(world, repo)
    expected = {"base": world.base, "base_revision": world.hub.resolve(world.base, revision), "contribute": True,
                "task": "sentiment"}  # fmt: skip
    assert card["hub_fusion"] == expected
    assert (card["base_model"], card["base_model_relation"], card["library_name"]) == (
        world.base,
        "finetune",
        "transformers",
    )
    found = {c.repo: c for c in discover(world.hub, Recipe(base=world.base))[0]}[repo]
    assert (found.relation, found.consent, found.license, found.datasets) == ("finetune", True, "mit", ("imdb",))
    resolved = resolve_origin(found, Generations.of(world.hub, world.base), world.hub)
    assert (resolved.generation, resolved.known_by) == (0 if revision == "gen-0" else 1, "card")
    assert check_contribution(repo, hub=ann).accepted


def test_a_published_adapter_is_an_adapter(world: World, ann: Hub, folder: Path) -> None:
    """By its card, so that the Hub lists it under base_model:adapter."""
    (folder / SINGLE).unlink()
    for name, data in adapter_files().items():
        (folder / name).write_bytes(data)
    publish_contribution(folder, "ann/adapter", base=world.base, base_revision="gen-0", hub=ann, license="mit")
    assert published(world, "ann/adapter")["base_model_relation"] == "adapter"
    assert [info.id for info in world.hub.children(world.base, "adapter")] == ["ann/adapter"]
    assert check_contribution("ann/adapter", hub=ann).accepted


def test_pickles_hidden_files_and_folders_stay_behind(world: World, ann: Hub, folder: Path) -> None:
    """Optimiser states, training arguments with local paths, old weights, tokens; and the old card is replaced."""
    leave = ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "model.ckpt", "x.pkl",
             "x.pickle", "X.BIN", "x.joblib", ".env", ".gitattributes"]  # fmt: skip
    for name in leave:
        (folder / name).write_bytes(b"secret")
    (folder / "runs").mkdir()
    (folder / "runs" / "events").write_bytes(b"secret")
    (folder / "README.md").write_text("---\nbase_model: /home/ann/x\n---\n")
    publish_contribution(folder, "ann/clean", base=world.base, base_revision="gen-0", hub=ann)
    there = set(world.hub.files("ann/clean", "main")) - {".gitattributes"}
    assert there == {SINGLE, "config.json", "vocab.txt", "tokenizer.json", "README.md"}
    assert published(world, "ann/clean")["base_model"] == world.base


def test_a_private_repository_can_be_asked_for(world: World, ann: Hub, folder: Path) -> None:
    """And the check says that it would not be taken."""
    publish_contribution(
        folder, "ann/secret", base=world.base, base_revision="gen-0", hub=ann, license="mit", private=True
    )
    assert [r.code for r in check_contribution("ann/secret", hub=ann).refusals] == ["private"]


def test_a_second_upload_is_a_new_commit_and_keeps_no_old_weights(world: World, ann: Hub, folder: Path) -> None:
    """Else the weights of the first upload would be read, whatever the second one brings."""
    first = publish_contribution(folder, "ann/again", base=world.base, base_revision="gen-0", hub=ann)
    (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    second = publish_contribution(folder, "ann/again", base=world.base, base_revision="gen-0", hub=ann)
    assert first != second
    assert SINGLE not in world.hub.files("ann/again", second)
    assert SINGLE in world.hub.files("ann/again", first)


def test_errors_come_before_a_repository_is_made(world: World, ann: Hub, folder: Path, tmp_path: Path) -> None:
    """Nothing half-done on the Hub."""
    with pytest.raises(HubFusionError, match="holds no safetensors: call save_pretrained"):
        publish_contribution(tmp_path / "nowhere", "ann/none", base=world.base, base_revision="gen-0", hub=ann)
    (folder / "pytorch_model.bin").write_bytes((folder / SINGLE).read_bytes())
    (folder / SINGLE).unlink()
    with pytest.raises(HubFusionError, match="holds no safetensors"):
        publish_contribution(folder, "ann/none", base=world.base, base_revision="gen-0", hub=ann)
    (folder / SINGLE).write_bytes(save(finetuned(1)))
    with pytest.raises(RepoMissing):
        publish_contribution(folder, "ann/none", base=world.base, base_revision="gen-9", hub=ann)
    with pytest.raises(RepoMissing):
        world.hub.model("ann/none")


def test_extra_metadata_adds_to_the_card(world: World, ann: Hub, folder: Path) -> None:
    """A title, a language: whatever else the author wants to say."""
    publish_contribution(
        folder, "ann/more", base=world.base, base_revision="gen-0", hub=ann, metadata={"language": "sq"}
    )
    assert published(world, "ann/more")["language"] == "sq"


def test_metadata_leaves_out_what_was_not_said() -> None:
    """No `license: null` in a card."""
    front = contribution_metadata("acme/base", "a" * 40)
    assert front == {
        "base_model": "acme/base", "base_model_relation": "finetune", "library_name": "transformers",
        "tags": ["hub-fusion", "hub-fusion-base:" + "a" * 40],
        "hub_fusion": {"base": "acme/base", "base_revision": "a" * 40, "contribute": True},
    }  # fmt: skip


def with_statistics(folder: Path, weights: str | None = None) -> None:
    """What hub-fusion statistics leaves beside the weights in the folder, in its smallest form."""
    (folder / "fusion").mkdir(exist_ok=True)
    own = weights or weights_identity([file_sha256(folder / SINGLE)])
    about = {"kinds": "activations", "covers": "1 of 6 linear layers", "examples": "9", "tokens": "99",
             "weights_sha256": own}  # fmt: skip
    (folder / "fusion" / "statistics.safetensors").write_bytes(
        save({f"activations/{QUERY}.weight": torch.eye(4)}, about)
    )


def test_statistics_come_along_and_the_card_says_so(world: World, ann: Hub, folder: Path) -> None:
    """In one commit with the weights; without being asked for, those of an earlier upload make way with its weights."""
    with_statistics(folder)
    options = {"base": world.base, "base_revision": "gen-0", "hub": ann, "license": "mit"}
    publish_contribution(folder, "ann/measured", statistics=True, **options)
    told = {"kinds": "activations", "covers": "1 of 6 linear layers", "examples": "9", "tokens": "99"}
    assert published(world, "ann/measured")["hub_fusion"]["statistics"] == told  # type: ignore[index]
    assert "## Statistics for fusing" in world.hub.read_text("ann/measured", "README.md")
    assert "fusion/statistics.safetensors" in world.hub.files("ann/measured", "main")
    publish_contribution(folder, "ann/measured", **options)
    assert "fusion/statistics.safetensors" not in world.hub.files("ann/measured", "main")
    sha = publish_statistics(folder, "ann/measured", hub=ann)
    assert sha == world.hub.resolve("ann/measured")
    assert published(world, "ann/measured")["hub_fusion"]["statistics"] == told  # type: ignore[index]
    assert published(world, "ann/measured")["hub_fusion"]["base"] == world.base  # type: ignore[index]


def test_statistics_of_other_weights_are_not_uploaded(world: World, ann: Hub, folder: Path) -> None:
    """Who trains on and forgets to compute them again would be refused later."""
    options = {"base": world.base, "base_revision": "gen-0", "hub": ann}
    with pytest.raises(HubFusionError, match="is not there: hub-fusion statistics"):
        publish_contribution(folder, "ann/stale", statistics=True, **options)
    with_statistics(folder, "0" * 64)
    with pytest.raises(HubFusionError, match="of other weights than"):
        publish_contribution(folder, "ann/stale", statistics=True, **options)
    publish_contribution(folder, "ann/stale", **options)
    (folder / SINGLE).write_bytes(save(finetuned(2)))
    with_statistics(folder)
    with pytest.raises(HubFusionError, match="has other weights"):
        publish_statistics(folder, "ann/stale", hub=ann)
