"""A base that fuses by RegMean or Fisher merging: statistics come along, are checked, and belong to the record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import CommitOperationAdd
from safetensors.torch import save

from hub_fusion.contribute.check import check_contribution
from hub_fusion.records import weights_identity
from hub_fusion.replay import replay
from hub_fusion.reproduce import reproduce
from hub_fusion.weights.statistics import BESIDE

from .world import AUTHORS, BASE, World, opened

Tensors = dict[str, torch.Tensor]
ABOUT = {"examples": "8", "tokens": "40", "kinds": "activations fisher"}


def honest(weights: Tensors, seed: int) -> Tensors:
    """Statistics of every tensor that has some; the file's own head is left out."""
    random = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for name, tensor in weights.items():
        if "classifier" in name:
            continue
        found[f"fisher/{name}"] = torch.rand(tensor.shape, generator=random) + 0.01
        if tensor.dim() == 2:
            x = torch.randn(40, tensor.shape[1], generator=random)
            found[f"activations/{name}"] = x.T @ x / 40
    return found


def bring(world: World, author: str, tensors: Tensors, about: dict[str, str] | None = None) -> str:
    """Add statistics to somebody's contribution; gives the commit."""
    data = save({n: t.contiguous() for n, t in tensors.items()}, ABOUT if about is None else about)
    return commit(world, author, data)


def commit(world: World, author: str, data: bytes) -> str:
    """The file as it is."""
    return world.client(author).commit(f"{author}/finetune", [CommitOperationAdd(BESIDE, data)], "Statistics")


def bring_all(world: World, change: Callable[[Tensors], Tensors] = lambda t: t) -> None:
    """Everybody does; ann's are changed."""
    for seed, author in enumerate(AUTHORS):
        found = honest(world.weights("main", f"{author}/finetune"), seed)
        bring(world, author, change(found) if author == "ann" else found)


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_a_generation_of_statistics_is_reproduced_replayed_and_archived(method: str, ready: World) -> None:
    """The hash of what was read covers them; when the authors are gone, the archive has both files."""
    bring_all(ready)
    assert ready.run(ready.recipe(merge={"method": method}, archive={"keep": "all"})).status == "published"
    record = ready.record(1)
    mean_of_weights = sum(ready.weights("main", f"{a}/finetune")["vit.layernorm.bias"] for a in AUTHORS) / 5
    moved = ready.weights("gen-1")["vit.layernorm.bias"]
    assert torch.allclose(moved, mean_of_weights, atol=1e-5) == (method == "regmean")  # it has no inputs, but gradients
    out = ready.folder / "again"
    done = reproduce(ready.client("fritz"), BASE, "gen-1", ready.compute, out / "a")
    assert done.equal and not done.archived
    for author in AUTHORS:
        ready.client(author).delete_repo(f"{author}/finetune")
    done = reproduce(ready.maintainer, BASE, "gen-1", ready.compute, out / "b")
    assert done.equal and len(done.archived) == len(record.contributions) == 5
    (replayed,) = replay(ready.maintainer, BASE, ready.compute, out / "c", out / "d")
    assert replayed.equal


@pytest.mark.parametrize("method", ["regmean", "fisher"])
def test_who_scales_their_statistics_changes_no_byte(method: str, ready_store: Path, tmp_path: Path) -> None:
    """By a power of two close to a million: of another factor what is left is how its own file rounds."""
    fused = []
    for factor in (1.0, 2.0**20):
        with opened(ready_store, tmp_path / str(factor)) as world:
            bring_all(world, lambda found, factor=factor: {n: t * factor for n, t in found.items()})  # type: ignore[misc]
            assert world.run(world.recipe(merge={"method": method})).status == "published"
            fused.append(world.record(1).weights)
    assert fused[0] == fused[1]


def test_who_has_no_statistics_is_refused_or_gets_the_mean_of_the_others(ready: World) -> None:
    """As the recipe says; the reason names what to run."""
    bring_all(ready)
    ready.client("ann").api.delete_file(BESIDE, "ann/finetune")
    rules: dict[str, Any] = {"merge": {"method": "regmean"}}
    assert ready.run(ready.recipe(**rules)).status == "waiting"
    refusal = next(r for r in ready.status().refusals if r.repo == "ann/finetune")
    assert refusal.code == "statistics_missing"
    assert "hub-fusion statistics MODEL --task FOLDER --kind gram" in refusal.fix
    pool = {"merge": {"method": "regmean", "options": {"missing": "pool"}}}
    assert ready.run(ready.recipe(**pool)).status == "published"
    assert {c.author for c in ready.record(1).contributions} == set(AUTHORS)
    assert reproduce(ready.maintainer, BASE, "gen-1", ready.compute, ready.folder / "again").equal


def test_statistics_that_nobody_asks_for_are_not_read(ready: World) -> None:
    """By the mean: a broken file does no harm, and is not part of what was fused."""
    commit(ready, "ann", b"not safetensors")
    assert ready.run().status == "published"
    assert "ann" in {c.author for c in ready.record(1).contributions}


NAME = "vit.layernorm.weight"
HOSTILE: dict[str, tuple[Callable[[Tensors], bytes], str]] = {
    "no safetensors": (lambda t: b"x" * 100, "malformed_statistics"),
    "a huge header": (lambda t: (10**12).to_bytes(8, "little") + b"{}", "malformed_statistics"),
    "truncated": (lambda t: save(t, ABOUT)[:-1], "malformed_statistics"),
    "wrong shape": (lambda t: save(t | {f"fisher/{NAME}": torch.ones(3)}, ABOUT), "statistics_mismatch"),
    "an unknown tensor": (lambda t: save(t | {"fisher/x": torch.ones(3)}, ABOUT), "statistics_mismatch"),
    "a path": (lambda t: save(t | {"fisher/../../x": torch.ones(3)}, ABOUT), "statistics_mismatch"),
    "no metadata": (lambda t: save(t), "statistics_mismatch"),
    "no tokens": (lambda t: save(t, ABOUT | {"tokens": "0"}), "statistics_mismatch"),
    "tokens like a number": (lambda t: save(t, ABOUT | {"tokens": "٣" * 3}), "statistics_mismatch"),
    "shared with itself as a list": (lambda t: save(t, ABOUT | {"shared": "[]"}), "statistics_mismatch"),
    "of other weights": (lambda t: save(t, ABOUT | {"weights_sha256": "0" * 64}), "statistics_stale"),
    "NaN": (lambda t: save(t | {f"fisher/{NAME}": torch.full((16,), torch.nan)}, ABOUT), "statistics_invalid"),
    "negative": (lambda t: save(t | {f"fisher/{NAME}": -torch.ones(16)}, ABOUT), "statistics_invalid"),
    "no Fisher information": (
        lambda t: save({n: v for n, v in t.items() if "fisher" not in n}, ABOUT), "statistics_missing",
    ),
}  # fmt: skip


def test_hostile_statistics_are_refused_by_the_check_with_a_code(ready: World) -> None:
    """From headers alone, with a reason and a fix; what only the values tell passes the check."""
    found = honest(ready.weights("main", "ann/finetune"), 0)
    recipe = ready.recipe(merge={"method": "fisher"})
    for case, (make, code) in HOSTILE.items():
        commit(ready, "ann", make(found))
        check = check_contribution("ann/finetune", hub=ready.maintainer, recipe=recipe)
        expected = [] if code == "statistics_invalid" else [code]
        assert [r.code for r in check.refusals] == expected, case
        assert all(r.reason and r.fix for r in check.refusals), case


def test_hostile_statistics_are_refused_and_the_round_goes_on(ready: World) -> None:
    """Four of five are hostile, each in a way that another step finds."""
    bring_all(ready)
    cases = {"ann": "a huge header", "bob": "wrong shape", "cem": "NaN", "dora": "of other weights"}
    for seed, (author, case) in enumerate(cases.items()):
        commit(ready, author, HOSTILE[case][0](honest(ready.weights("main", f"{author}/finetune"), seed)))
    outcome = ready.run(ready.recipe(merge={"method": "fisher"}, round={"min_contributions": 1}))
    assert outcome.status == "published"
    found = {r.repo.partition("/")[0]: r.code for r in outcome.refusals}
    assert found == {author: HOSTILE[case][1] for author, case in cases.items()}
    assert [c.author for c in ready.record(1).contributions] == ["eve"]


def test_an_indefinite_gram_matrix_does_not_end_the_round(ready: World) -> None:
    """It has a diagonal like any other; its sum with the others' would have no Cholesky factor."""
    name = next(n for n in ready.weights("main") if ready.weights("main")[n].dim() == 2)
    columns = ready.weights("main")[name].shape[1]
    bring_all(ready, lambda t: t | {f"activations/{name}": 1e3 * torch.ones(columns, columns).fill_diagonal_(1e-3)})
    rules = {"merge": {"method": "regmean", "options": {"alpha": 1.0}}, "round": {"min_contributions": 4}}
    outcome = ready.run(ready.recipe(**rules))
    assert outcome.status == "published"
    assert [(r.repo, r.code) for r in outcome.refusals] == [("ann/finetune", "statistics_invalid")]


def test_statistics_that_name_their_weights_pass(ready: World) -> None:
    """As hub-fusion statistics writes them."""
    bring_all(ready)
    hub = ready.maintainer
    for seed, author in enumerate(AUTHORS):
        path = hub.download(f"{author}/finetune", "model.safetensors", hub.resolve(f"{author}/finetune"))
        own = weights_identity([hashlib.sha256(path.read_bytes()).hexdigest()])
        bring(ready, author, honest(ready.weights("main", f"{author}/finetune"), seed), ABOUT | {"weights_sha256": own})
    assert ready.run(ready.recipe(merge={"method": "fisher"})).status == "published"
