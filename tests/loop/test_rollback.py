"""A generation can be taken back: one commit, the parent's bytes on main, and the loop goes on beside what is gone."""

from __future__ import annotations

import pytest
import torch

from hub_fusion.errors import HubConflict, RecordError
from hub_fusion.publish.commit import card_of
from hub_fusion.publish.rollback import roll_back
from hub_fusion.publish.state import open_base

from .world import AUTHORS, BASE, World


def grow(world: World, generations: int) -> None:
    """Publish so many generations."""
    for number in range(generations):
        if number:
            world.contribute_all(seed=10 * number)
        assert world.run().status == "published"


def weights_of(world: World, revision: str) -> dict[str, str]:
    files = world.maintainer.files(BASE, revision).items()
    return {path: file.oid for path, file in files if path.endswith(".safetensors") or path.endswith(".st")}


def test_main_has_the_parents_bytes_again_and_the_next_number_goes_on(ready: World) -> None:
    grow(ready, 2)
    before = ready.maintainer.commits(BASE)
    done = ready.command("rollback", BASE, "gen-2", "--reason", "Worse on a larger suite.")
    assert done.returncode == 0 and "gen-2 is withdrawn" in done.stderr, done.stderr
    after = ready.maintainer.commits(BASE)
    assert after[1:] == before and len(after) == len(before) + 1, "one commit"
    assert weights_of(ready, "main") == weights_of(ready, "gen-1") != weights_of(ready, "gen-2")
    assert set(ready.tags()) == {"gen-0", "gen-1", "gen-2"}, "the tag stays"
    entry = ready.index().entries[-1]
    assert (entry.tag, entry.status, entry.reason) == ("gen-2", "yanked", "withdrawn: Worse on a larger suite.")
    assert '"status": "yanked"' in ready.text("fusion/gen-2.json") and ready.record(2).status == "published"
    card = ready.text("README.md")
    assert "generation 1" in card and "**Back at gen-1.**" in card and "Worse on a larger suite" in card
    state = open_base(ready.maintainer, BASE)
    assert state.generation == 1 and state.next_generation == 3
    assert "**Withdrawn.**" in card_of(ready.maintainer, state, "gen-2")

    shas = ready.contribute_all(seed=50)  # trained from main, which is gen-1 again
    outcome = ready.run()
    assert outcome.status == "published" and outcome.generation == 3
    record = ready.record(3)
    assert record.parent_generation == 1 and record.parent_revision == ready.tags()["gen-1"]
    origins = {(c.author, c.sha): c.generation for c in record.contributions}
    assert origins == dict.fromkeys(shas.items(), 1), "main after a withdrawal is its parent"
    expected = ready.weights("gen-1")
    for author in AUTHORS:
        finetune, start = ready.weights(shas[author], f"{author}/finetune"), ready.weights("gen-1")
        expected = {n: t + (finetune[n] - start[n]) / len(AUTHORS) for n, t in expected.items()}
    for name, tensor in ready.weights("gen-3").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    assert [e.tag for e in ready.index().generations] == ["gen-0", "gen-1", "gen-2", "gen-3"]
    assert "Back at" not in ready.text("README.md")


def test_what_was_built_on_it_goes_too_and_gen_0_comes_back_with_its_card(ready: World) -> None:
    grow(ready, 2)
    roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 1, "poisoned")
    assert [e.status for e in ready.index().generations] == ["root", "yanked", "yanked"]
    assert weights_of(ready, "main") == weights_of(ready, "gen-0")
    card = ready.text("README.md")
    assert card.startswith("---\nlicense: apache-2.0\n---\n") and "Our little model." in card
    assert "**Back at gen-0.**" in card and "poisoned" in card
    again = ready.run()
    assert again.status in ("published", "known"), "what was in it is free to be fused again"


def test_the_same_contributions_are_not_judged_twice_after_a_withdrawal(ready: World) -> None:
    """Or a watcher would publish the withdrawn generation again at its next look, by the suite that liked it."""
    grow(ready, 1)
    roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 1, "worse")
    outcome = ready.run()
    assert outcome.status == "known" and set(ready.tags()) == {"gen-0", "gen-1"}


def test_what_cannot_be_withdrawn_is_said(ready: World) -> None:
    grow(ready, 1)
    state = open_base(ready.maintainer, BASE)
    for number in (0, 7):
        with pytest.raises(RecordError, match=f"no gen-{number} that can be withdrawn; there are gen-1"):
            roll_back(ready.maintainer, state, number, "no")
    ready.commit({"NOTES.md": "somebody was first"})
    head = ready.maintainer.branches(BASE)["main"]
    with pytest.raises(HubConflict):
        roll_back(ready.maintainer, state, 1, "late")
    assert ready.maintainer.branches(BASE)["main"] == head
    roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 1, "worse")
    with pytest.raises(RecordError, match="withdrawn already"):
        roll_back(ready.maintainer, open_base(ready.maintainer, BASE), 1, "again")
