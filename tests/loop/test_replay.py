"""A lineage once more: bit by bit as it was, or by another method; what is gone is named or left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hub_fusion.errors import MergeError, RecordError, RepoMissing
from hub_fusion.records import Score, Scores
from hub_fusion.replay import Replayed, replay

from .world import AUTHORS, BASE, World, judged, opened


@pytest.fixture(scope="module")
def lineage(ready_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two generations; ann contributed to the second what she trained from the root."""
    with opened(ready_store, tmp_path_factory.mktemp("lineage")) as world:
        world.run()
        for place, author in enumerate(AUTHORS):
            world.contribute(author, seed=20 + place, revision="gen-0" if author == "ann" else "gen-1")
        world.run(world.recipe(merge={"steps": [0.5]}))
        yield world


def again(world: World, out: Path, **how: Any) -> list[Replayed]:
    return replay(world.maintainer, BASE, world.compute, out, world.folder / "replaying", **how)


def changes(world: World, generation: int) -> list[dict[str, torch.Tensor]]:
    """The task vectors of a generation, each against the published weights that it started from."""
    found = []
    for c in world.record(generation).contributions:
        start, end = world.weights(f"gen-{c.generation}"), world.weights(c.sha, c.repo)
        found.append({name: end[name] - start[name] for name in start})
    return found


def test_a_replay_as_recorded_is_the_published_lineage_bit_by_bit(lineage: World, tmp_path: Path) -> None:
    one, two = again(lineage, tmp_path)
    assert one.equal and two.equal and (one.fused, two.fused) == (5, 5) and (one.parent, two.parent) == (0, 1)
    assert two.distance.apart == 0 and two.distance.first > one.distance.first > 0
    assert two.distance.cosine == pytest.approx(1)
    assert load_file(tmp_path / "gen-2" / "model.safetensors").keys() == lineage.weights("gen-2").keys()


def test_published_task_vectors_are_added_to_the_replayed_parents(lineage: World, tmp_path: Path) -> None:
    """Twice the sum in gen-1 moves gen-2 as well, whose contributions still count from where they were trained."""
    one, two = again(lineage, tmp_path, method="task_arithmetic", options={"scale": 2.0}, step=1.0)
    expected = lineage.weights("gen-0")
    for replayed, number in ((one, 1), (two, 2)):
        for change in changes(lineage, number):
            expected = {name: tensor + 2 * change[name] for name, tensor in expected.items()}
        found = load_file(replayed.folder / "model.safetensors")
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
        published, root = lineage.weights(f"gen-{number}"), lineage.weights("gen-0")
        apart = sum(float((found[n].double() - published[n].double()).square().sum()) for n in root) ** 0.5
        moved = sum(float((found[n].double() - root[n].double()).square().sum()) for n in root) ** 0.5
        assert (replayed.distance.apart, replayed.distance.first) == pytest.approx((apart, moved))
        assert not replayed.equal


def test_what_is_gone_is_named_or_left_out(ready: World, tmp_path: Path) -> None:
    ready.run()
    keys = [c.key for c in ready.record(1).contributions]
    ready.client("ann").delete_repo("ann/finetune")
    with pytest.raises(RepoMissing, match="A replay without them: --skip-missing") as error:
        again(ready, tmp_path)
    assert keys[0] in str(error.value)
    said: list[str] = []
    (one,) = again(ready, tmp_path, skip_missing=True, say=said.append)
    assert (one.fused, one.missing, one.equal) == (4, (keys[0],), False)
    assert any("1 of 5 contributions are gone and left out" in line for line in said)
    for author in AUTHORS[1:]:
        ready.client(author).delete_repo(f"{author}/finetune")
    (one,) = again(ready, tmp_path, skip_missing=True)
    assert (one.fused, one.distance.first, one.equal) == (0, 0, False), "nothing is left: the root again"
    assert one.distance.apart == pytest.approx(one.distance.second)


def test_the_archive_is_enough_for_a_replay(ready: World, tmp_path: Path) -> None:
    ready.run(ready.recipe(archive={"keep": "all"}))
    for author in AUTHORS:
        ready.client(author).delete_repo(f"{author}/finetune")
    (one,) = again(ready, tmp_path)
    assert one.equal and one.fused == 5


def test_what_cannot_be_replayed_is_said_before_anything_is_downloaded(ready: World, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is at gen-0"):
        again(ready, tmp_path)
    ready.run()
    for how, words in (({"method": "mediocre"}, "no merge method"), ({"step": 2.0}, "part of the way"),
                       ({"method": "ties", "options": {"densty": 1}}, "did you mean 'density'")):  # fmt: skip
        with pytest.raises(MergeError, match=words):
            again(ready, tmp_path, **how)
    ready.rewrite("gen-1", lambda record: record.update(parent_generation=7))
    with pytest.raises(RecordError, match="names the parent gen-7"):
        again(ready, tmp_path)


def timeless(scores: Scores) -> list[Score]:
    return [score.model_copy(update={"seconds": 0.0}) for score in scores.means]


def test_replayed_and_published_generations_are_measured_alike(ready: World, tmp_path: Path, task: Path) -> None:
    recipe = ready.recipe(**judged(task), gate={"epsilon": 1.0})
    ready.run(recipe)
    record = ready.record(1).candidate_scores
    (same,) = again(ready, tmp_path / "same", evaluate=recipe.evaluate)
    assert same.scores and record and same.published_scores == record
    assert timeless(same.scores) == timeless(record)
    other = ready.recipe(**judged(task, seeds=3)).evaluate
    (more,) = again(ready, tmp_path / "more", method="median", evaluate=other)
    assert more.scores and more.published_scores and more.published_scores.suite == more.scores.suite != record.suite
