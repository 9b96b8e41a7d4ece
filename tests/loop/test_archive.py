"""What was fused is kept beside the base: whole, once, and never at the price of a generation."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd

from hub_fusion.errors import RecipeError, RepoMissing
from hub_fusion.publish.archive import Archive, files_read, folder_of
from hub_fusion.records import Credit, files_identity

from .proxy import Request, forwarding
from .world import AUTHORS, BASE, LATER, World

ARCHIVE = f"{BASE}-archive"
ALL: dict[str, Any] = {"archive": {"keep": "all"}}


def archive(world: World, repo: str = ARCHIVE) -> Archive:
    """The companion as its owner sees it."""
    found = Archive.open(world.maintainer, repo)
    assert found
    return found


def keys(world: World) -> list[str]:
    """``repo@sha`` of all that is kept."""
    manifests = [path for path in archive(world).files if path.endswith("/archive.json")]
    told = [json.loads(world.maintainer.read_text(ARCHIVE, path)) for path in manifests]
    return sorted(f"{entry['repo']}@{entry['sha']}" for entry in told)


def test_nothing_is_kept_unless_the_recipe_says_so(ready: World) -> None:
    assert ready.run().status == "published" and ready.record(1).archive is None
    assert Archive.open(ready.maintainer, ARCHIVE) is None


def test_every_contribution_is_kept_in_one_commit_with_what_was_read(ready: World) -> None:
    """Weights and configuration, whose work it is, and licence texts; no card, no code."""
    ready.client("ann").commit("ann/finetune", [
        CommitOperationAdd(path, text) for path, text in {"LICENSE": b"Apache", "train.py": b"print()"}.items()
    ], "More")  # fmt: skip
    assert ready.run(ready.recipe(**ALL)).status == "published"
    record, kept, hub = ready.record(1), archive(ready), ready.maintainer
    assert record.archive == ARCHIVE and hub.model(ARCHIVE).private is True
    assert keys(ready) == [c.key for c in record.contributions]
    titles = [commit.title for commit in hub.commits(ARCHIVE)]
    assert [title for title in titles if title.startswith("Keep ")] == [
        f"Keep {c.key}" for c in reversed(record.contributions)
    ]
    ann = record.contributions[0]
    files = {path.rpartition("/")[2] for path in kept.files if path.startswith(folder_of(ann))}
    assert files == {"model.safetensors", "config.json", "archive.json", "LICENSE"}
    about = json.loads(hub.read_text(ARCHIVE, f"{folder_of(ann)}/archive.json"))
    assert (about["author"], about["license"], about["fused_into"]) == ("ann", "apache-2.0", BASE)
    assert kept.copy_of(ann)[0].sha256 == hub.files(ann.repo, ann.sha)["model.safetensors"].sha256
    assert "gen-1" in hub.read_text(ARCHIVE, "README.md")


def test_a_second_round_adds_only_what_is_new(ready: World) -> None:
    ready.run(ready.recipe(**ALL))
    before = ready.maintainer.commits(ARCHIVE)
    ready.contribute_all(seed=20, revision="gen-1")
    ready.run(ready.recipe(**ALL))
    after = ready.maintainer.commits(ARCHIVE)
    assert len(after) == len(before) + len(AUTHORS) and after[len(AUTHORS) :] == before
    assert len(keys(ready)) == 2 * len(AUTHORS)


def test_what_an_earlier_generation_lacks_is_kept_by_the_next(ready: World) -> None:
    """Whoever turns it on later, or whose archive could not be reached, catches up with what is still there."""
    ready.run()
    ready.client("ann").delete_repo("ann/finetune")
    for place, author in enumerate((*AUTHORS[1:], LATER)):
        ready.contribute(author, seed=20 + place, revision="gen-1")
    said: list[str] = []
    ready.run(ready.recipe(**ALL), say=said.append)
    both = {c.key for n in (1, 2) for c in ready.record(n).contributions}
    assert set(keys(ready)) == {key for key in both if not key.startswith("ann/")}
    assert not [line for line in said if "is not kept" in line]


def test_adapters_alone_can_be_kept_and_the_block_list_also_rules_over_old_ones(ready: World) -> None:
    assert ready.run(ready.recipe(archive={"keep": "adapters"})).status == "published"
    assert keys(ready) == [] and ready.record(1).archive == ARCHIVE
    for place, author in enumerate((*AUTHORS[1:], LATER)):
        ready.contribute(author, seed=20 + place, revision="gen-1")
    said: list[str] = []
    rules = {"contributions": {"block": ["ann"]}}
    assert ready.run(ready.recipe(**ALL, **rules), say=said.append).status == "published"
    assert not [key for key in keys(ready) if key.startswith("ann/")] and len(keys(ready)) == 9
    assert any("ann/finetune" in line and "the recipe blocks it" in line for line in said)


def test_a_failure_of_the_archive_is_said_and_loses_no_generation(ready: World) -> None:
    """Here the name belongs to somebody else, and then the archive is public although the recipe wants it private."""
    said: list[str] = []
    recipe = ready.recipe(archive={"keep": "all", "repo": "ann/archive"})
    assert ready.run(recipe, say=said.append).status == "published"
    assert ready.record(1).archive is None and any("archive: nothing is kept" in line for line in said)
    ready.maintainer.create_repo(ARCHIVE)
    ready.contribute_all(seed=20, revision="gen-1")
    assert ready.run(ready.recipe(**ALL), say=said.append).status == "published"
    public = f"{ARCHIVE} is public, and the recipe has archive.private: true"
    assert any(public in line for line in said)


def test_gated_work_does_not_leave_through_a_public_archive(ready: World) -> None:
    """Ann lets the base's account in, not everybody."""
    ann = ready.client("ann").api
    ann.update_repo_settings("ann/finetune", gated="manual")
    ann.grant_access("ann/finetune", "acme")
    rules = {"contributions": {"gated": True}, "archive": {"keep": "all", "private": False}}
    said: list[str] = []
    assert ready.run(ready.recipe(**rules), say=said.append).status == "published"
    assert "ann" in {c.author for c in ready.record(1).contributions}
    assert {key.partition("/")[0] for key in keys(ready)} == set(AUTHORS[1:])
    assert any("private or gated, and the archive is public" in line for line in said)


@pytest.mark.parametrize("fault", ["killed", "cut off"])
@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 6))])
def test_a_fault_while_it_archives_neither_loses_nor_doubles_a_copy(number: int, fault: str, ready: World) -> None:
    """After the Hub carried out the `number`-th commit the process is killed, or never hears of it; then it goes on."""
    process: list[subprocess.Popen[str]] = []
    seen: list[Request] = []

    def hang_up(request: Request) -> bool:
        if "/base-archive/commit/" in request.path:
            seen.append(request)
        if len(seen) == number and fault == "killed":
            process[0].kill()
        return len(seen) < number

    with forwarding(ready.hub.url, after=hang_up) as proxy:
        arguments = ("run", "-r", ready.write_recipe(**ALL), "--work", ready.work)
        process.append(ready.start(*arguments, endpoint=proxy.url))
        process[0].communicate(timeout=120)
    recipe = ready.recipe(**ALL)
    ready.run(recipe)
    assert set(ready.tags()) == {"gen-0", "gen-1"}
    ready.contribute_all(seed=20, revision="gen-1")
    assert ready.run(recipe).generation == 2
    fused = sorted(c.key for n in (1, 2) for c in ready.record(n).contributions)
    assert keys(ready) == fused
    kept = [c.title for c in ready.maintainer.commits(ARCHIVE) if c.title.startswith("Keep ")]
    assert sorted(kept) == [f"Keep {key}" for key in fused], "one commit for each contribution"


def test_statistics_are_kept_if_they_were_read(ready: World) -> None:
    """The hash of what was read tells: a file that lies beside the weights is not part of a generation."""
    statistics = CommitOperationAdd("fusion/statistics.safetensors", b"fisher")
    sha = ready.client("ann").commit("ann/finetune", [statistics], "Statistics")
    credit = Credit(repo="ann/finetune", sha=sha, relation="finetune", author="ann")
    there = ready.maintainer.files("ann/finetune", sha)
    assert [f.path for f in files_read(ready.maintainer, credit)] == ["model.safetensors"]
    both = ["model.safetensors", "fusion/statistics.safetensors"]
    read = files_identity({name: there[name].sha256 or there[name].oid for name in both})
    credit = credit.model_copy(update={"files_sha256": read})
    assert [f.path for f in files_read(ready.maintainer, credit)] == both


def test_the_archive_is_not_the_base(ready: World) -> None:
    with pytest.raises(RecipeError, match=r"archive\.repo is the base itself"):
        ready.recipe(archive={"repo": BASE})
    with pytest.raises(RepoMissing):
        ready.maintainer.resolve(ARCHIVE)
