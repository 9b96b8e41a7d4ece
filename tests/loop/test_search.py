"""A round searches: all it measured is in the record, who made it worse is told, a random step stands beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub_fusion.candidates import _why
from hub_fusion.evaluate.search import Found, Tried
from hub_fusion.evaluate.suite import measure
from hub_fusion.records import Generation, Trial, Verdict

from .world import AUTHORS, Tensors, World, harmful, honest, judged

LENIENT = {"test": "means", "epsilon": 1.0, "epsilon_best": 1.0, "delta": None}


def test_every_step_and_a_random_one_are_in_the_record(empty: World, task: Path) -> None:
    empty.contribute_all(seed=1)
    outcome = empty.run(empty.recipe(**judged(task), merge={"steps": [1.0, 0.5]}, gate=LENIENT))
    record = empty.record(1)
    assert outcome.status == "published" and record.verdict and record.control and record.candidate_scores
    assert [(t.kind, t.step, t.members) for t in record.verdict.trials] == [("step", 1.0, 5), ("step", 0.5, 5)]
    assert [step for step, _ in record.verdict.tried] == [1.0, 0.5]
    moved = {n: t - empty.weights("gen-0")[n] for n, t in empty.weights("gen-1").items()}
    length = float(sum(t.double().square().sum() for t in moved.values())) ** 0.5
    assert record.control.norm == pytest.approx(length, rel=1e-5)
    assert {(d.role, d.protocol) for d in record.control.differences} == {("gate", "probe"), ("report", "probe")}
    control = {(s.role, s.protocol): s.mean for s in record.control.scores.means}
    ours = {(s.role, s.protocol): s.mean for s in record.candidate_scores.means}
    for change in record.control.differences:
        key = (change.role, change.protocol)
        assert change.mean == pytest.approx(ours[key] - control[key])
    assert "A random step from gen-0 of the same length" in empty.text("README.md")


def test_the_budget_bounds_what_is_measured(empty: World, task: Path) -> None:
    """One measurement: the first step, no other one, no control."""
    empty.contribute_all(seed=1)
    rules = empty.recipe(**judged(task), merge={"steps": [1.0, 0.5]}, gate=LENIENT, search={"evaluations": 1})
    record = empty.run(rules).record
    assert record and record.verdict and len(record.verdict.trials) == 1 and record.control is None
    assert len(list((empty.work / "scores").glob("*.npz"))) == 2, "parent and candidate"


def test_who_makes_the_candidate_worse_is_left_out_and_told(empty: World, task: Path) -> None:
    """Where positions are a thousand million, nothing of an image is left in 24 bits; a share of it suffices."""
    import torch

    def ruinous(tensors: Tensors, seed: int) -> Tensors:
        name = "vit.embeddings.position_embeddings"
        random = torch.Generator().manual_seed(seed)
        return honest(tensors, seed) | {name: 1e9 * torch.randn(tensors[name].shape, generator=random)}

    for place, author in enumerate(AUTHORS[:4]):
        empty.contribute(author, seed=place, change=ruinous if author == "dora" else honest)
    rules = {"contributions": "leave-one-out", "evaluations": 8, "control": "off"}
    plain = {"cap": False, "steps": [1.0]}
    round = {"min_contributions": 4}  # too few for the screen to compare norms: the search is to find it
    blind = {"min_kinship": -1.0}
    recipe = empty.recipe(**judged(task), merge=plain, gate=LENIENT, search=rules, round=round, screen=blind)
    outcome = empty.run(recipe)
    record = empty.record(1)
    assert outcome.status == "published" and record.verdict
    refused = [(r.repo, r.stage, r.code) for r in record.refusals]
    assert refused == [("dora/finetune", "fuse", "made_worse")]
    assert "higher (95 % interval" in record.refusals[0].reason and record.refusals[0].fix
    assert [c.author for c in record.contributions] == list(AUTHORS[:3])
    assert {c.weight for c in record.contributions} == {1 / 3}
    assert record.weights == {"model.safetensors": empty.weights_sha256()}
    kinds = [t.kind for t in record.verdict.trials]
    assert kinds == ["step", *["without"] * 4, "step"] and record.verdict.trials[-1].members == 3
    assert "dora/finetune" in {r.repo for r in empty.status().refusals}
    _tells_of_what_is_in_it(empty, record)
    again = empty.run(recipe)
    assert again.status == "waiting" and [c.author for c in again.queue] == ["dora"], "the next generation may want it"


def _tells_of_what_is_in_it(world: World, record: Generation) -> None:
    """Cosines are of the three that were fused, from the very weights; dora, of length 10⁹, would drown them."""
    moved = []
    for credit in record.contributions:
        finetune, start = world.weights(credit.sha, credit.repo), world.weights("gen-0")
        moved.append(np.concatenate([(finetune[n] - start[n]).double().numpy().ravel() for n in start]))
    gram = np.array(moved) @ np.array(moved).T
    lengths, analysis = np.sqrt(gram.diagonal()), record.analysis
    assert analysis and analysis.contributions == tuple(c.key for c in record.contributions)
    np.testing.assert_allclose(analysis.cosines, gram / np.outer(lengths, lengths), atol=1e-3)
    assert np.array(analysis.opposed).shape == (3, 3) and len(analysis.spectrum) == 3
    np.testing.assert_allclose(analysis.spectrum, np.linalg.eigvalsh(gram)[::-1] / np.trace(gram), atol=1e-3)
    mean = np.mean(moved, axis=0)
    told = [m @ mean / np.linalg.norm(mean) / length for m, length in zip(moved, lengths, strict=True)]
    np.testing.assert_allclose([c.cosine for c in record.contributions], told, atol=1e-3)
    assert record.verdict and len(analysis.left_out) == 4, "all that were left out once, dora too"
    for trial in record.verdict.trials:
        assert trial.kind != "without" or analysis.left_out[str(trial.contribution)] == trial.change
    (harm,) = [change for key, change in analysis.left_out.items() if key.startswith("dora/")]
    assert harm.low > 0


def test_a_killed_search_goes_on_without_measuring_again(empty: World, task: Path, monkeypatch) -> None:
    """Killed after its second measurement, by an error that nobody catches; the third is all that is left to do."""
    empty.contribute_all(seed=1)
    recipe = empty.recipe(**judged(task), merge={"steps": [1.0, 0.5, 0.25]}, gate=LENIENT, search={"control": "off"})

    class Killed(BaseException):
        pass

    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith("fusing") and "step 0.25" in text:
            raise Killed

    with pytest.raises(Killed):
        empty.run(recipe, say=say)
    before = {path.name: path.stat().st_mtime_ns for path in (empty.work / "scores").glob("*.npz")}
    assert len(before) == 3
    outcome = empty.run(recipe)
    after = {path.name: path.stat().st_mtime_ns for path in (empty.work / "scores").glob("*.npz")}
    assert outcome.status == "published" and len(after) == 4 and before.items() <= after.items()


def test_a_rejected_attempt_has_its_control_and_its_rules_too(empty: World, task: Path) -> None:
    empty.contribute_all(seed=1, change=harmful)
    record = empty.run(empty.recipe(**judged(task), merge={"steps": [1.0]})).record
    assert record and record.status == "rejected" and record.verdict and record.control
    assert "gen-0" in record.verdict.reason and not all(rule.passed for rule in record.verdict.rules)
    assert [a.control for a in empty.status().rejected] == [record.control]


def test_gen_0_is_measured_again_by_a_new_suite(empty: World, task: Path) -> None:
    """Or nothing would hold a loop that changes its tasks above what people had before it."""
    empty.contribute_all(seed=1)
    assert empty.run(empty.recipe(**judged(task), gate=LENIENT)).status == "published"
    empty.contribute_all(seed=10)
    outcome = empty.run(empty.recipe(**judged(task, seeds=3), gate=LENIENT))
    assert outcome.record and outcome.record.verdict
    rule = next(rule for rule in outcome.record.verdict.rules if rule.name == "root")
    recipe = empty.recipe(**judged(task, seeds=3))
    hub = empty.maintainer
    root = hub.snapshot("acme/base", hub.resolve("acme/base", "gen-0"), ("*.json", "*.safetensors"))
    alone = measure(root, recipe.evaluate, weights_sha256="0" * 64).scores.mean("gate")
    assert rule.change == pytest.approx(outcome.record.verdict.candidate - alone) and rule.low is not None


def test_who_is_not_in_the_soup_is_told_both_means() -> None:
    """Nothing is wrong with it, and it comes again."""
    trial = Trial(kind="with", members=3, step=1.0, candidate=0.5, accepted=True)
    nothing: Any = None  # of the best candidate only its mean is told
    best = Tried(("a",), 1.0, nothing, Verdict.model_construct(candidate=0.625))
    code, reason, fix = _why(trial, Found(best, (trial,), {}))
    assert (code, bool(fix)) == ("not_in_soup", True)
    assert "0.5000 with those that were better, 0.6250 without it" in reason
