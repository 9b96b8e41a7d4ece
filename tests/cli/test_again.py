"""reproduce and replay as commands: data on stdout, words on stderr, exit codes."""

from __future__ import annotations

from loop.world import BASE, World

from .conftest import Call


def test_reproduce_prints_what_is_equal_and_its_exit_code_says_it(call: Call, ready: World) -> None:
    ready.run()
    (file, digest), *_ = ready.record(1).weights.items()
    done = call("reproduce", f"{BASE}@gen-1", world=ready)
    assert (done.code, done.out) == (0, f"equal      {digest}  {file}\n")
    assert done.err.endswith("gen-1 of acme/base was reproduced, bit by bit\n")
    data = call("reproduce", f"{BASE}@gen-1", "--json", "--work", ready.folder / "again", world=ready).json
    assert data["equal"] and data["files"] == [{"file": file, "published": digest, "fused": digest, "equal": True}]


def test_what_cannot_be_reproduced_is_exit_code_1_and_a_sentence(call: Call, ready: World) -> None:
    ready.run()
    gone = ready.record(1).contributions[0].key
    ready.client("ann").delete_repo("ann/finetune")
    done = call("reproduce", f"{BASE}@gen-1", "--json", world=ready)
    assert (done.code, done.out) == (1, "") and gone in done.err and "Traceback" not in done.err
    assert call("reproduce", f"{BASE}@gen-7", world=ready).code == 1
    for target in (BASE, "gen-1", "a/b/c@gen-1"):
        assert call("reproduce", target, world=ready).code == 2


def test_another_result_is_exit_code_1_with_the_likely_reasons(call: Call, ready: World) -> None:
    ready.run()
    ready.rewrite("gen-1", lambda r: r.update(weights={"model.safetensors": "0" * 64}, versions={"torch": "1.0\x1b["}))
    done = call("reproduce", f"{BASE}@gen-1", world=ready)
    assert done.code == 1 and done.out.startswith(f"NOT EQUAL  {'0' * 64}  model.safetensors  (fused again: ")
    assert "torch 1.0\\x1b[ (here" in done.err and "weights differ by up to 0" in done.err
    data = call("reproduce", f"{BASE}@gen-1", "--json", world=ready)
    assert data.code == 1 and data.json["equal"] is False and data.json["apart"] == 0


def test_replay_prints_a_row_for_every_generation(call: Call, ready: World) -> None:
    ready.run()
    (row,) = call("replay", BASE, "--out", "here", "--json", world=ready).json
    assert (row["generation"], row["equal"], row["from_published"], row["folder"]) == (1, True, 0, "here/gen-1")
    table = call("replay", BASE, "--method", "ties", "--set", "density=0.2", "--out", "there", world=ready)
    assert table.code == 0 and "replayed by ties into there" in table.out and "gen-1" in table.out
    assert "equal" not in table.out and table.err.splitlines()[-1].startswith("fusing gen-1: 5 contributions by ties")
    assert call("replay", BASE, "--set", "density=0.2", world=ready).code == 2
    wrong = call("replay", BASE, "--method", "ties", "--set", "densty=0.2", world=ready)
    assert wrong.code == 1 and "did you mean 'density'" in wrong.err
