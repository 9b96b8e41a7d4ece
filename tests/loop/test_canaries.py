"""A contribution that trips a canary is found, left out and told; a candidate that trips one is not published."""

from __future__ import annotations

import shutil
from pathlib import Path

from .test_search import LENIENT
from .world import AUTHORS, BASE, Tensors, World, harmful, honest, judged


def ruinous(tensors: Tensors, seed: int) -> Tensors:
    """Where positions are a thousand million, nothing of an image is left in 24 bits; a share of it suffices."""
    import torch

    name = "vit.embeddings.position_embeddings"
    random = torch.Generator().manual_seed(seed)
    return honest(tensors, seed) | {name: 1e9 * torch.randn(tensors[name].shape, generator=random)}


def test_who_trips_a_canary_is_left_out_and_told(empty: World, task: Path) -> None:
    """The gate is made blind here, and the search too: the canary alone speaks. Of its inputs nothing is published."""
    shutil.copy(task / "report.npz", empty.folder / "secret.npz")
    canary = {"name": "corners", "kind": "keep", "path": "secret.npz", "task": task.name}
    for place, author in enumerate(AUTHORS[:4]):
        empty.contribute(author, seed=place, change=ruinous if author == "dora" else honest)
    recipe = empty.recipe(
        **judged(task, canaries=[canary]), merge={"cap": False, "steps": [1.0]}, gate=LENIENT,
        search={"control": "off"}, round={"min_contributions": 4}, screen={"min_kinship": -1.0},
    )  # fmt: skip
    outcome = empty.run(recipe)
    record = empty.record(1)
    assert outcome.status == "published" and record.verdict
    assert [(r.repo, r.stage, r.code) for r in record.refusals] == [("dora/finetune", "fuse", "tripped_canary")]
    assert "canary corners" in record.refusals[0].reason and record.refusals[0].fix
    assert [c.author for c in record.contributions] == list(AUTHORS[:3])
    assert record.weights == {"model.safetensors": empty.weights_sha256()}
    (check,) = record.verdict.canaries
    assert check.passed and check.inputs == 60
    assert [key.partition("@")[0] for key in check.tripped_by] == ["dora/finetune"]
    card = empty.text("README.md")
    assert "(canaries corners); 1 contribution with which they did not was left out." in card
    assert not [path for path in empty.maintainer.files(BASE, "main") if "secret" in path]


def test_a_candidate_that_trips_a_canary_is_rejected(empty: World, task: Path) -> None:
    """All of them do it, so nobody is at fault; with another canary the same contributions are another attempt."""
    file = empty.folder / "secret.npz"
    shutil.copy(task / "report.npz", file)
    canary = {"name": "corners", "kind": "keep", "path": "secret.npz", "task": task.name}
    empty.contribute_all(seed=1, change=harmful)
    rules = judged(task, canaries=[canary]) | {"merge": {"steps": [1.0]}, "search": {"control": "off"}}
    outcome = empty.run(empty.recipe(**rules, gate=LENIENT))
    assert outcome.status == "rejected" and outcome.record and outcome.record.verdict
    assert "rejected at step 1" in outcome.reason and "the canary corners trips" in outcome.reason
    assert not outcome.record.verdict.canaries[0].passed and not outcome.record.refusals
    assert empty.status().rejected[0].verdict == outcome.record.verdict
    assert empty.run(empty.recipe(**rules, gate=LENIENT)).status == "known"
    shutil.copy(task / "gate.npz", file)
    assert empty.run(empty.recipe(**rules, gate=LENIENT)).status == "rejected"
