"""One round: what it publishes, what it waits for, what it rejects, and what it remembers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import CommitOperationAdd

from hub_fusion.contribute.upload import publish_contribution
from hub_fusion.contributions.listing import Listing
from hub_fusion.errors import RecipeError
from hub_fusion.hub import Hub

from .world import AUTHORS, BASE, CARD, LATER, World, harmful, idle, judged, python_environment

COUNT = len(AUTHORS)


def mean_of(world: World, parent: str, shas: dict[str, str], **origins: str) -> dict[str, torch.Tensor]:
    """Parent plus the mean of the task vectors, as ColD Fusion writes it; `origins` name other starting points."""
    found = world.weights(parent)
    for author, sha in shas.items():
        start, finetune = world.weights(origins.get(author, parent)), world.weights(sha, f"{author}/finetune")
        found = {name: tensor + (finetune[name] - start[name]) / len(shas) for name, tensor in found.items()}
    return found


def shas_of(world: World) -> dict[str, str]:
    return {author: world.maintainer.resolve(f"{author}/finetune") for author in AUTHORS}


def test_a_round_publishes_one_commit_and_one_tag(ready: World) -> None:
    before = ready.maintainer.commits(BASE)
    outcome = ready.run()
    after, tags = ready.maintainer.commits(BASE), ready.tags()
    assert outcome.status == "published" and outcome.generation == 1 and outcome.revision == after[0].sha
    assert after[1:] == before, "one generation is one commit"
    assert tags == {"gen-0": before[0].sha, "gen-1": after[0].sha}
    files = set(ready.maintainer.files(BASE, "gen-1"))
    lineage = {"fusion/NOTICE", "fusion/gen-1.json", "fusion/index.json", "fusion/recipe.yaml"}
    assert files == {".gitattributes", "README.md", "config.json", "model.safetensors"} | lineage
    record = ready.record(1)
    assert [c.repo for c in record.contributions] == [f"{author}/finetune" for author in AUTHORS]
    assert {c.weight for c in record.contributions} == {1 / COUNT} and {c.generation for c in record.contributions} == {
        0
    }
    assert record.weights == {"model.safetensors": ready.weights_sha256()}
    assert record.parent_revision == tags["gen-0"] and record.id == ready.index().entries[-1].id
    assert "gen-1" in ready.text("README.md") and all(author in ready.text("README.md") for author in AUTHORS)
    assert ready.text("fusion/recipe.yaml") == record.recipe
    assert not (ready.work / "spool").exists(), "downloads are given back"


def test_the_weights_are_the_mean_of_the_contributions(ready: World) -> None:
    """Exactly the arithmetic of the paper, up to float32 rounding of sums in another order."""
    ready.run()
    expected, found = mean_of(ready, "gen-0", shas_of(ready)), ready.weights("gen-1")
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)


def test_a_record_tells_how_the_contributions_lie_to_each_other(ready: World) -> None:
    """Rows and columns are the contributions of the record; every layer that was fused has moved."""
    ready.run()
    record = ready.record(1)
    analysis = record.analysis
    assert analysis is not None and list(analysis.contributions) == [c.key for c in record.contributions]
    table, n = np.array(analysis.cosines), len(record.contributions)
    assert table.shape == (n, n) and np.allclose(table, table.T) and np.allclose(np.diagonal(table), 1)
    assert np.array(analysis.opposed).shape == (n, n) and 1 <= analysis.directions <= n
    assert sum(analysis.spectrum) == pytest.approx(1, abs=1e-3)
    assert analysis.drift and all(moved > 0 for moved in analysis.drift.values())


def test_a_generation_loads_in_a_plain_process(ready: World) -> None:
    """Nothing but HF_ENDPOINT is set: what anybody does who never heard of hub_fusion."""
    ready.run()
    script = (
        "from transformers import AutoModelForImageClassification as M\n"
        f"m = M.from_pretrained({BASE!r}, revision='gen-1', num_labels=3)\n"
        "print(m.num_labels, float(m.vit.embeddings.cls_token.double().sum()))"
    )
    environment = python_environment(ready.folder / "user") | {"HF_ENDPOINT": ready.hub.url}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    labels, total = done.stdout.split()
    assert labels == "3"
    assert float(total) == pytest.approx(float(ready.weights("gen-1")["vit.embeddings.cls_token"].double().sum()))


def test_stale_formats_go_and_what_people_wrote_stays(ready: World) -> None:
    """An old pytorch_model.bin would be another model under the same name; an edited configuration is not ours."""
    config = json.loads(ready.text("config.json")) | {"problem_type": "single_label_classification"}
    ready.run()
    edited = json.dumps(config)
    ready.commit({"pytorch_model.bin": b"old", "onnx/model.onnx": b"old", "config.json": edited, "LICENSE": "Apache"})
    ready.contribute_all(seed=30)
    assert ready.run().generation == 2
    files = ready.maintainer.files(BASE, "gen-2")
    assert not {"pytorch_model.bin", "onnx/model.onnx"} & set(files) and "LICENSE" in files
    assert ready.text("config.json", "gen-2") == edited


def test_nothing_new_is_waiting_and_commits_nothing(ready: World) -> None:
    ready.run()
    head = ready.maintainer.branches(BASE)
    again = ready.run()
    assert again.status == "waiting" and again.generation == 1 and again.queue == ()
    told = ready.maintainer.branches(BASE)
    assert told["main"] == head["main"]
    ready.run()
    assert ready.maintainer.branches(BASE) == told, "a status that says the same is not written again"


def test_a_watcher_fuses_what_is_there_when_it_fuses(ready: World) -> None:
    """A contribution that was listed and is gone by now is left out; the listing between looks cannot know that."""
    listing = Listing(ready.folder / "listing.sqlite3")
    waiting = ready.run(ready.recipe(round={"min_contributions": COUNT + 1}), listing=listing)
    assert waiting.status == "waiting" and len(waiting.queue) == COUNT
    gone = AUTHORS[0]
    ready.client(gone).delete_repo(f"{gone}/finetune")
    outcome = ready.run(ready.recipe(round={"min_contributions": COUNT - 1}), listing=listing)
    assert outcome.status == "published" and outcome.record
    assert [c.author for c in outcome.record.contributions] == list(AUTHORS[1:]) and outcome.refusals == ()


def test_new_commits_give_the_next_generation_from_the_newest(ready: World) -> None:
    ready.run()
    shas = ready.contribute_all(seed=10)
    outcome = ready.run()
    assert outcome.generation == 2 and ready.record(2).parent_revision == ready.tags()["gen-1"]
    expected = mean_of(ready, "gen-1", shas)
    for name, tensor in ready.weights("gen-2").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    index = ready.index()
    assert [e.tag for e in index.generations] == ["gen-0", "gen-1", "gen-2"]
    assert index.generations[1].revision == ready.tags()["gen-1"] and index.contributors == dict.fromkeys(AUTHORS, 2)


def test_a_late_contribution_enters_with_the_change_from_its_own_generation(ready: World) -> None:
    """Averaging raw weights would drag the base back to gen-0; a task vector against gen-0 does not."""
    ready.run()
    shas = ready.contribute_all(seed=10, revision="gen-1") | {LATER: ready.contribute(LATER, revision="gen-0", seed=77)}
    assert ready.run().generation == 2
    origins = {c.author: (c.generation, c.known_by) for c in ready.record(2).contributions}
    assert origins == dict.fromkeys(AUTHORS, (1, "card")) | {LATER: (0, "card")}
    expected = mean_of(ready, "gen-1", shas, **{LATER: "gen-0"})
    for name, tensor in ready.weights("gen-2").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_notes_that_people_write_into_the_card_survive(ready: World) -> None:
    ready.run()
    card = ready.text("README.md")
    begin = "<!-- hub_fusion:notes:start -->\n"
    assert card.count(begin) == 1
    ready.commit({"README.md": card.replace(begin, f"{begin}Ask in the forum before you use this.\n")})
    ready.contribute_all(seed=10)
    assert ready.run().generation == 2
    assert "Ask in the forum before you use this." in ready.text("README.md", "gen-2")
    assert CARD.splitlines()[1] in ready.text("README.md", "gen-2")


def test_a_rejected_attempt_is_told_remembered_and_not_made_again(empty: World, task: Path) -> None:
    empty.contribute_all(seed=1, change=harmful)
    recipe = empty.recipe(**judged(task), merge={"steps": [1.0]}, gate={"epsilon": 0.0})
    head = empty.maintainer.branches(BASE)["main"]
    outcome = empty.run(recipe)
    assert outcome.status == "rejected" and outcome.record and outcome.record.verdict
    assert outcome.record.candidate_scores and outcome.record.candidate_scores.mean("gate") < 0.6
    assert empty.maintainer.branches(BASE)["main"] == head and set(empty.tags()) == {"gen-0"}
    assert [a.id for a in empty.status().rejected] == [outcome.record.id]

    again = empty.run(recipe, work=empty.folder / "elsewhere")
    assert again.status == "known"
    assert [p.name for p in (empty.folder / "elsewhere").iterdir()] == ["lock"], "nothing is downloaded to know that"
    assert [a.id for a in empty.status().rejected] == [outcome.record.id]

    empty.contribute(LATER, seed=99, change=harmful)
    other = empty.run(recipe)
    assert other.status == "rejected" and other.record and other.record.id != outcome.record.id
    assert [a.id for a in empty.status().rejected] == [outcome.record.id, other.record.id]

    empty.contribute_all(seed=50)
    empty.contribute(LATER, seed=60)
    assert (
        empty.run(
            empty.recipe(**judged(task), merge={"steps": [1.0]}, gate={"epsilon": 0.3, "test": "means", "delta": None})
        ).generation
        == 1
    )
    ids = [outcome.record.id, other.record.id]
    assert [e.id for e in empty.index().entries if e.status == "rejected"] == ids
    assert {f"fusion/attempts/{id}.json" for id in ids} <= set(empty.maintainer.files(BASE, "gen-1"))
    assert empty.status().rejected == () and empty.status().generation == 1


def test_those_who_were_rejected_let_others_go_first(ready: World, task: Path) -> None:
    """The newest are chosen: as many bad ones as a round may have would keep all others waiting for good."""
    for place, author in enumerate(AUTHORS):
        ready.contribute(author, seed=70 + place, name="bad", change=harmful)
    rules = {"round": {"max_contributions": 5}, "gate": {"epsilon": 0.3, "test": "means", "delta": None}}
    recipe = ready.recipe(**judged(task), merge={"steps": [1.0]}, **rules)
    rejected = ready.run(recipe)
    assert rejected.status == "rejected" and rejected.record
    assert {c.repo for c in rejected.record.contributions} == {f"{author}/bad" for author in AUTHORS}
    published = ready.run(recipe)
    assert published.status == "published" and published.record
    assert {c.repo for c in published.record.contributions} == {f"{author}/finetune" for author in AUTHORS}
    assert {c.repo for c in ready.run(recipe, dry_run=True).queue} == {f"{author}/bad" for author in AUTHORS}


def test_a_smaller_step_is_tried_where_the_whole_way_is_too_far(empty: World, task: Path) -> None:
    """The whole way flattens all features to one; a tenth of it scales them, which a probe hardly notices."""
    empty.contribute_all(seed=1, change=harmful)
    outcome = empty.run(
        empty.recipe(**judged(task), merge={"steps": [1.0, 0.1]}, gate={"test": "means", "epsilon": 0.1})
    )
    assert outcome.status == "published" and outcome.record and outcome.record.verdict
    assert [step for step, _ in outcome.record.verdict.tried] == [1.0, 0.1] and outcome.record.step == 0.1
    base, found = empty.weights("gen-0"), empty.weights("gen-1")
    torch.testing.assert_close(found["vit.layernorm.weight"], 0.9 * base["vit.layernorm.weight"], rtol=0, atol=0.01)


def test_small_losses_do_not_add_up(empty: World, task: Path) -> None:
    """The gate holds the candidate against the best generation too, not only against a parent that lost already."""
    empty.contribute_all(seed=1, change=harmful)
    blind = {"test": "means", "epsilon": 1.0, "epsilon_best": 1.0, "delta": None}
    assert empty.run(empty.recipe(**judged(task), merge={"steps": [1.0]}, gate=blind)).status == "published"
    empty.contribute_all(seed=10, change=idle)
    outcome = empty.run(
        empty.recipe(**judged(task), merge={"steps": [1.0]}, gate=blind | {"epsilon_best": 0.1, "epsilon_root": 1.0})
    )
    assert outcome.status == "rejected" and outcome.record and (verdict := outcome.record.verdict)
    assert verdict.candidate >= verdict.parent - verdict.epsilon and verdict.candidate < verdict.best - 0.1


def test_too_few_wait_in_sight_of_everybody(empty: World) -> None:
    shas = {author: empty.contribute(author, seed=place) for place, author in enumerate(AUTHORS[:2])}
    outcome = empty.run()
    assert outcome.status == "waiting" and "2 contributions are ready, 5 are needed" in outcome.reason
    status = empty.status()
    assert {w.repo: w.sha for w in status.queue} == {f"{author}/finetune": sha for author, sha in shas.items()}
    assert all(w.since for w in status.queue) and status.generation == 0


def test_after_the_longest_wait_two_are_enough(empty: World) -> None:
    for place, author in enumerate(AUTHORS[:2]):
        empty.contribute(author, seed=place)
    patient = {"max_wait": timedelta(days=1).total_seconds()}
    assert empty.run(empty.recipe(round=patient)).status == "waiting"
    time.sleep(1.1)  # records hold whole seconds
    outcome = empty.run(empty.recipe(round={"max_wait": 0}))
    assert outcome.status == "published" and outcome.record and len(outcome.record.contributions) == 2


def test_one_account_has_one_vote_however_much_it_publishes(ready: World) -> None:
    ready.contribute("ann", seed=40, name="second")
    ready.contribute("ann", seed=41, name="third")
    record = ready.run().record
    assert record
    weights = {c.repo: c.weight for c in record.contributions}
    assert weights["bob/finetune"] == pytest.approx(1 / 5)
    assert sum(w for repo, w in weights.items() if w and repo.startswith("ann/")) == pytest.approx(1 / 5)
    assert weights["ann/second"] == pytest.approx(1 / 15)


def test_refusals_reach_the_record_and_the_status_with_a_fix(ready: World) -> None:
    ready.contribute(LATER, seed=1, name="copy")  # ann's seed
    ready.contribute(LATER, seed=8, name="closed", license="cc-by-nc-4.0")
    outcome = ready.run()
    assert outcome.status == "published"
    codes = {(r.repo, r.stage, r.code) for r in ready.record(1).refusals}
    assert codes == {(f"{LATER}/copy", "screen", "copy"), (f"{LATER}/closed", "filter", "license_not_allowed")}
    assert {(r.repo, r.stage, r.code) for r in ready.status().refusals} == codes
    assert all(r.reason and r.fix and len(r.sha) == 40 for r in ready.record(1).refusals)


def test_refusals_of_a_rejected_attempt_can_be_read_too(empty: World, task: Path) -> None:
    """Whoever was refused in the screen learns it from the status, whether or not the others got through the gate."""
    empty.contribute_all(seed=1, change=harmful)
    empty.contribute(LATER, seed=1, change=harmful)
    recipe = empty.recipe(**judged(task), merge={"steps": [1.0]}, gate={"epsilon": 0.0})
    for word in ("rejected", "known", "known"):
        assert empty.run(recipe).status == word
        assert [(r.repo, r.code) for r in empty.status().refusals] == [(f"{LATER}/finetune", "copy")]


def test_too_few_after_the_screen_wait_with_their_refusals(empty: World) -> None:
    for place, author in enumerate(AUTHORS[:4]):
        empty.contribute(author, seed=place)
    empty.contribute("eve", seed=0)  # a copy of ann's
    outcome = empty.run()
    assert outcome.status == "waiting" and "1 failed the screen" in outcome.reason
    assert len(empty.status().queue) == 4 and [r.code for r in empty.status().refusals] == ["copy"]
    assert set(empty.tags()) == {"gen-0"}


def test_a_recipe_without_tasks_is_refused_before_anything_is_downloaded(empty: World) -> None:
    """Also while nothing is due: a watcher should not find out after a week."""
    recipe = empty.recipe(gate={"require_tasks": True})
    with pytest.raises(RecipeError, match=r"evaluate\.tasks is empty.*require_tasks: false"):
        empty.run(recipe)
    assert empty.tags() == {} and not empty.work.exists()


def test_a_second_unmeasured_generation_follows_the_first(ready: World) -> None:
    """Without tasks there is no best generation to be held against."""
    assert ready.run().generation == 1
    ready.contribute_all(seed=10)
    assert ready.run().generation == 2


def test_a_dry_run_changes_nothing(ready: World) -> None:
    before = ready.maintainer.branches(BASE)
    outcome = ready.run(dry_run=True)
    assert outcome.status == "planned" and len(outcome.queue) == COUNT
    assert ready.maintainer.branches(BASE) == before and ready.tags() == {} and not ready.work.exists()


def test_what_an_earlier_round_left_in_the_work_folder_is_not_published(ready: World) -> None:
    """The candidate's folder may be that of another base, or of a killed round."""
    candidate = ready.work / "candidate"
    candidate.mkdir(parents=True)
    (candidate / "vocab.txt").write_text("of another base")
    (candidate / "model-00001-of-00002.safetensors").write_bytes(b"torn")
    ready.run()
    names = set(ready.maintainer.files(BASE, "gen-1"))
    assert not {"vocab.txt", "model-00001-of-00002.safetensors"} & names


def test_weights_changed_by_hand_stop_the_loop_instead_of_being_overwritten(ready: World) -> None:
    ready.run()
    head = ready.commit({"model.safetensors": b"somebody else's weights"})
    ready.contribute_all(seed=10, revision="gen-1")
    from hub_fusion.errors import HubConflict

    with pytest.raises(HubConflict, match="gen-1"):
        ready.run()
    assert ready.maintainer.branches(BASE)["main"] == head


def test_no_more_than_the_recipe_allows_enter_and_the_others_wait(ready: World) -> None:
    ready.contribute(LATER, seed=9)
    outcome = ready.run(ready.recipe(round={"max_contributions": 5}))
    assert outcome.record and {c.author for c in outcome.record.contributions} == {*AUTHORS[1:], LATER}, "newest first"
    again = ready.run(ready.recipe(round={"max_contributions": 5}))
    assert again.status == "waiting" and [c.author for c in again.queue] == ["ann"]


def test_the_same_contributions_give_the_same_bytes(ready: World, ready_store: Path, tmp_path: Path) -> None:
    """Reproducible from the record alone: another machine, another work folder, another order of arrival."""
    from .world import opened

    ready.run()
    with opened(ready_store, tmp_path / "twin") as twin:
        twin.run()
        assert twin.weights_sha256() == ready.weights_sha256()
        assert twin.record(1).weights == ready.record(1).weights


def test_an_unknown_base_is_an_error_not_a_new_repository(ready: World) -> None:
    from hub_fusion.errors import RepoMissing

    with pytest.raises(RepoMissing, match="acme/nothing"):
        ready.run(ready.recipe(base="acme/nothing"))


def test_the_hub_is_spoken_to_with_the_cache_that_was_given(ready: World) -> None:
    """Tests and rehearsals must not fill the person's cache."""
    assert isinstance(ready.maintainer, Hub) and str(ready.maintainer.cache_dir).startswith(str(ready.folder))


def test_weights_are_fused_once_whatever_their_repository_and_card(ready: World) -> None:
    """A typing error mended in a card is a new commit, and a re-upload a new repository, of the same weights."""
    ready.run()
    for author in AUTHORS:
        hub, repo = ready.client(author), f"{author}/finetune"
        edited = hub.read_text(repo, "README.md") + "\nOne sentence more.\n"
        hub.commit(repo, [CommitOperationAdd("README.md", edited.encode())], "Card")
    hub = ready.client(LATER)
    folder = hub.snapshot(f"{AUTHORS[0]}/finetune", hub.resolve(f"{AUTHORS[0]}/finetune"), ("*",))
    publish_contribution(folder, f"{LATER}/again", base=BASE, base_revision="gen-0", hub=hub, license="apache-2.0")
    outcome = ready.run()
    assert outcome.status == "waiting"
    assert {r.repo: r.code for r in outcome.refusals} == {
        **{f"{author}/finetune": "already_fused" for author in AUTHORS},
        f"{LATER}/again": "already_fused",
    }


def test_a_generation_is_no_contribution_to_an_earlier_one(ready: World) -> None:
    """Its own weights with a claim of gen-0 would add all progress again."""
    ready.run()
    hub = ready.client(LATER)
    folder = hub.snapshot(BASE, hub.resolve(BASE, "gen-1"), ("*.json", "*.safetensors"))
    publish_contribution(folder, f"{LATER}/replay", base=BASE, base_revision="gen-0", hub=hub, license="apache-2.0")
    rule = {"min_contributions": 1}
    outcome = ready.run(ready.recipe(round=rule))
    assert outcome.status == "waiting"
    assert [(r.repo, r.code) for r in outcome.refusals] == [(f"{LATER}/replay", "already_fused")]


def test_few_contributors_make_a_small_step_where_the_recipe_bounds_each(ready: World) -> None:
    """Five accounts of which none may decide more than an eighth: five eighths of the way, and so it is recorded."""
    record = ready.run(ready.recipe(merge={"max_weight": 0.125})).record
    assert record is not None
    assert (record.step, [c.weight for c in record.contributions]) == (0.625, [pytest.approx(0.2)] * 5)
    moved = {n: t - ready.weights("gen-0")[n] for n, t in ready.weights("gen-1").items()}
    length = float(sum(t.double().square().sum() for t in moved.values())) ** 0.5
    alone = [float(c.norm or 0) * c.scale for c in record.contributions]
    assert length == pytest.approx(0.625 * sum((n / 5) ** 2 for n in alone) ** 0.5, rel=0.1)  # nearly orthogonal


def test_a_card_that_claims_an_unknown_revision_is_refused(ready: World) -> None:
    """By the watcher too, in the round."""
    hub = ready.client(AUTHORS[0])
    repo = f"{AUTHORS[0]}/finetune"
    card = re.sub(r"[0-9a-f]{40}", "f" * 40, hub.read_text(repo, "README.md"))
    hub.commit(repo, [CommitOperationAdd("README.md", card.encode())], "Card")
    outcome = ready.run(ready.recipe(round={"min_contributions": 4}))
    assert outcome.status == "published"
    assert [(r.repo, r.code) for r in outcome.refusals] == [(repo, "unknown_revision")]
