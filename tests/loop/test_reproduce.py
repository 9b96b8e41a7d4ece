"""A generation is fused again from its record alone; what is missing, or explains a difference, is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub_fusion.errors import HubFusionError, MergeError, RecordError, RepoMissing
from hub_fusion.merge import find_method
from hub_fusion.publish.archive import folder_of
from hub_fusion.reproduce import Reproduction, reproduce

from .world import AUTHORS, BASE, World

ALL: dict[str, Any] = {"archive": {"keep": "all"}}
ARCHIVE = f"{BASE}-archive"


def again(world: World, tag: str = "gen-1", account: str = "acme") -> Reproduction:
    """Fused again by somebody, with downloads of their own."""
    return reproduce(world.client(account), BASE, tag, world.compute, world.folder / "again" / account)


@pytest.mark.parametrize(
    "merge",
    [
        {"method": "mean"},
        {"method": "ties", "options": {"density": 0.3}, "steps": [0.5]},
        {"method": "dare", "seed": 7, "vote": "contribution", "cap": False},
    ],
    ids=lambda merge: merge["method"],
)
def test_a_stranger_gets_the_same_bytes_from_the_record(merge: dict[str, Any], ready: World) -> None:
    """Options, step, seed, weights and caps: whatever decides the bytes is in the record."""
    ready.run(ready.recipe(merge=merge))
    done = again(ready, account="fritz")
    assert done.equal and done.fused == ready.record(1).weights and done.apart is None and done.remarks == ()
    assert not list((ready.folder / "again" / "fritz").iterdir()), "nothing is left behind"
    formula = ready.record(1).formula
    assert formula and formula.options == find_method(merge["method"]).options | merge.get("options", {})


def test_later_generations_with_late_contributions_are_reproduced(ready: World) -> None:
    """Their task vectors are taken against the generation that they started from, not the parent."""
    ready.run()
    for place, author in enumerate(AUTHORS):
        ready.contribute(author, seed=20 + place, revision="gen-0" if author == "ann" else "gen-1")
    ready.commit({"README.md": "---\nlicense: mit\n---\n\nAn edited card.\n"})
    ready.run()
    assert {c.generation for c in ready.record(2).contributions} == {0, 1}
    assert again(ready, "gen-2").equal and again(ready, "gen-1").equal


def test_a_contribution_that_is_gone_is_named(ready: World) -> None:
    ready.run()
    for author in ("ann", "bob"):
        ready.client(author).delete_repo(f"{author}/finetune")
    with pytest.raises(RepoMissing, match="2 of 5 contributions cannot be read") as error:
        again(ready)
    for credit in ready.record(1).contributions[:2]:
        assert credit.key in str(error.value)
    assert f"no archive ({ARCHIVE})" in str(error.value) and "cem/finetune@" not in str(error.value)


def test_what_was_archived_is_reproduced_after_its_author_deleted_it(ready: World) -> None:
    ready.run(ready.recipe(**ALL))
    for author in ("ann", "bob"):
        ready.client(author).delete_repo(f"{author}/finetune")
    done = again(ready)
    assert done.equal and done.archived == tuple(c.key for c in ready.record(1).contributions[:2])
    with pytest.raises(RepoMissing, match="that this token may see"):
        again(ready, account="fritz")  # the archive is private


def test_a_copy_that_is_not_what_was_fused_is_not_used(ready: World) -> None:
    from huggingface_hub import CommitOperationAdd

    ready.run(ready.recipe(**ALL))
    hub, credits = ready.maintainer, ready.record(1).contributions
    other = hub.download(credits[1].repo, "model.safetensors", credits[1].sha)
    hub.commit(ARCHIVE, [CommitOperationAdd(f"{folder_of(credits[0])}/model.safetensors", other)], "Swap")
    ready.client("ann").delete_repo("ann/finetune")
    with pytest.raises(RepoMissing, match="does not hold the files of ann/finetune"):
        again(ready)


def test_a_record_from_before_there_was_a_formula_says_enough(ready: World) -> None:
    def forget(record: dict[str, Any]) -> None:
        del record["formula"], record["archive"]
        for credit in record["contributions"]:
            del credit["files_sha256"]

    ready.run(ready.recipe(merge={"method": "ties", "options": {"density": 0.5}, "seed": 3}))
    ready.rewrite("gen-1", forget)
    assert again(ready).equal


def test_another_result_is_told_with_what_may_explain_it(ready: World) -> None:
    def claim(record: dict[str, Any]) -> None:
        record["weights"] = {"model.safetensors": "0" * 64}
        record["hardware"] |= {"device": "cuda:0", "name": "NVIDIA L4\x1b[2J"}
        record["versions"] |= {"torch": "1.0", "hub_fusion": "9.9", "unknown": "7"}

    ready.run()
    ready.rewrite("gen-1", claim)
    done = again(ready)
    assert not done.equal and done.apart == 0.0
    device, versions = done.remarks
    assert "cuda:0, NVIDIA L4" in device and "equal bytes are claimed on the same kind only" in device
    assert "torch 1.0 (here" in versions and "hub-fusion 9.9 (here" in versions and "unknown" not in versions
    assert (ready.folder / "again" / "acme" / "candidate" / "model.safetensors").is_file()


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], type[HubFusionError], str]] = {
    "path as repository": (
        lambda r: r["contributions"][0].update(repo="../../etc/passwd"), RecordError, r"names of repositories \(not"),
    "folder as repository": (
        lambda r: r["contributions"][0].update(repo="/tmp/x"), RecordError, r"names of repositories \(not"),
    "no contributions": (lambda r: r.update(contributions=[]), RecordError, "does not say enough"),
    "no weights": (lambda r: r.update(weights={}), RecordError, "does not say enough"),
    "no share": (lambda r: r["contributions"][0].update(weight=None), RecordError, "weight and origin"),
    "negative share": (
        lambda r: r["contributions"][0].update(weight=-1), HubFusionError, "not negative"),
    "endless scale": (lambda r: r["contributions"][0].update(scale="inf"), RecordError, "scale"),
    "unknown method": (lambda r: r.update(method="os.system"), MergeError, "there is no merge method"),
    "unknown option": (lambda r: r["formula"].update(options={"x": 1}), MergeError, "no option 'x'"),
    "unknown dtype": (lambda r: r["formula"].update(dtype="I64"), HubFusionError, "no output dtype"),
    "huge rank": (lambda r: r["formula"].update(rank=10**9), RecordError, "formula.rank"),
    "step": (lambda r: r.update(step=7), HubFusionError, "the step is in"),
    "origin elsewhere": (
        lambda r: r["contributions"][0].update(origin_revision="f" * 40), RepoMissing, "f" * 40),
    "no base": (lambda r: (r["formula"].update(base_revision=None), r.update(parent_revision=None)), RecordError,
                "which revision of the base"),
    "archive as path": (lambda r: r.update(archive="../x"), HubFusionError, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_field_of_a_record_is_believed(name: str, ready: World) -> None:
    change, error, words = HOSTILE[name]
    ready.run()
    ready.rewrite("gen-1", lambda record: [change(record)][0])
    if name == "archive as path":
        assert again(ready).equal
    else:
        with pytest.raises(error, match=words):
            again(ready)
    assert not list(Path(ready.folder / "again").rglob("passwd"))


def test_what_is_no_generation_is_refused(ready: World) -> None:
    ready.run()
    for tag in ("gen-2", "main", "gen-01", "../gen-1"):
        with pytest.raises(RepoMissing, match=r"has no generation .*; there are gen-1"):
            again(ready, tag)
    with pytest.raises(RecordError, match="gen-0 of acme/base is the root"):
        again(ready, "gen-0")
