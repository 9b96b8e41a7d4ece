"""The rules on tensors, from Gram matrices made for each case; then the whole screen on a Hub."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from hub_fusion.contribute.check import base_headers
from hub_fusion.contributions import screen as screen_module
from hub_fusion.contributions.brought import Brought, Wanted, check_brought
from hub_fusion.contributions.judgement import judge_tensors
from hub_fusion.contributions.policy import refuse_standing
from hub_fusion.contributions.screen import check_headers
from hub_fusion.contributions.votes import capped, votes
from hub_fusion.errors import WeightsError
from hub_fusion.recipe import Contributions, Screen
from hub_fusion.records import Contribution
from hub_fusion.weights import deltas, remote
from hub_fusion.weights import measure as measure_module
from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.measure import Measures
from hub_fusion.weights.names import MismatchError

from .world import CONFIG, World, adapter_files, finetuned, tensors

START = datetime(2030, 1, 1, tzinfo=UTC)
RULE = Screen()


def crowd(n: int) -> list[Contribution]:
    """Contributions u0/m … made one day after the other."""
    return [
        Contribution(repo=f"u{i}/m", sha="a" * 40, relation="finetune", author=f"u{i}", created_at=START + timedelta(i))
        for i in range(n)
    ]


def gram(*vectors: list[float]) -> np.ndarray:
    """The Gram matrix of these task vectors."""
    rows = np.asarray(vectors, dtype=float)
    return rows @ rows.T


def axes(*lengths: float) -> np.ndarray:
    """Task vectors that are orthogonal to each other, of these lengths."""
    return np.diag(np.square(np.asarray(lengths, dtype=float)))


def judged(
    matrix: np.ndarray, rule: Screen = RULE, **facts: dict[int, str]
) -> tuple[list[int], dict[str, str], list[float]]:
    """Survivors, refused repositories with their codes, and scales."""
    kept, refusals, scales = judge_tensors(crowd(len(matrix)), Measures(matrix, **facts), rule)
    assert all(r.stage == "screen" and r.reason and r.fix for r in refusals)
    return kept, {r.repo: r.code for r in refusals}, scales


def test_a_good_round_passes_whole() -> None:
    """Nobody is capped where all are alike."""
    assert judged(axes(1, 1.1, 0.9, 1, 1.2)) == ([0, 1, 2, 3, 4], {}, [1.0] * 5)


def test_not_finite_and_unchanged_are_refused() -> None:
    """NaN by the tensor's name; zero by its norm."""
    matrix = axes(1, 0, 1)
    matrix[2, 2] = math.nan
    kept, refusals, _ = judged(matrix, not_finite={2: "encoder.weight"})
    assert kept == [0]
    assert refusals == {"u1/m": "unchanged", "u2/m": "not_finite"}
    _, more, _ = judge_tensors(crowd(3), Measures(matrix, {2: "encoder.weight"}), RULE)
    assert "encoder.weight" in next(r.reason for r in more if r.code == "not_finite")


def test_a_body_that_did_not_change_is_refused_whatever_its_heads_did() -> None:
    """It has nothing for the next finetuner."""
    kept, refusals, _ = judge_tensors(crowd(2), Measures(axes(0, 1), heads=[4.0, 0.0]), RULE)
    assert kept == [1]
    assert [r.code for r in refusals] == ["unchanged"]


def test_of_copies_the_first_one_wins() -> None:
    """By the date of the repository, not by its name; the refusal names the original."""
    people = [c.model_copy(update={"created_at": START - timedelta(i)}) for i, c in enumerate(crowd(3))]
    copies = Measures(gram([1, 0], [1, 0], [1, 1e-4]))
    kept, refusals, _ = judge_tensors(people, copies, RULE)
    assert kept == [2]
    assert [(r.repo, r.code) for r in refusals] == [("u1/m", "copy"), ("u0/m", "copy")]
    assert all("u2/m" in r.reason for r in refusals)


def test_copies_of_one_date_are_decided_by_name() -> None:
    """In any order of the round the same one wins; a repository without a date is not the first."""
    people = [c.model_copy(update={"created_at": START}) for c in crowd(2)]
    for order in ((0, 1), (1, 0)):
        kept, _, _ = judge_tensors([people[i] for i in order], Measures(gram([1], [1])), RULE)
        assert [people[order[i]].repo for i in kept] == ["u0/m"]
    undated = crowd(2)[0].model_copy(update={"created_at": None})
    kept, _, _ = judge_tensors([undated, people[1]], Measures(gram([1], [1])), RULE)
    assert kept == [1]


def test_half_of_another_or_its_opposite_is_not_a_copy() -> None:
    """Somewhat different training must not be lost."""
    assert judged(gram([1, 0], [0.5, 0], [-1, 0.5], [1, 0.2]))[0] == [0, 1, 2, 3]


def test_a_long_task_vector_is_capped_and_a_far_too_long_one_refused() -> None:
    """Cap at max(median + 3·MAD, 1½·median): lengths 1, 1, 1, 1, 3 have median 1 and MAD 0, so 3 becomes 1½."""
    kept, refusals, scales = judged(axes(1, 1, 1, 1, 3))
    assert (kept, refusals) == ([0, 1, 2, 3, 4], {})
    assert scales == [1, 1, 1, 1, pytest.approx(0.5)]
    kept, refusals, scales = judged(axes(1, 1, 1, 1, 10.1))
    assert (kept, refusals) == ([0, 1, 2, 3], {"u4/m": "norm_outlier"})
    assert judged(axes(1, 1, 1, 1, 9.9))[0] == [0, 1, 2, 3, 4]


def test_the_spread_of_a_round_raises_its_cap() -> None:
    """Lengths 1, 2, 3, 4, 9: median 3, MAD 1, so the cap is 6."""
    assert judged(axes(1, 2, 3, 4, 9))[2] == [1, 1, 1, 1, pytest.approx(6 / 9)]


def test_heads_count_for_the_norm() -> None:
    """What is fused is capped, heads too: five bodies of length 1, one of them with a head of length √8."""
    _, _, scales = judge_tensors(crowd(5), Measures(axes(1, 1, 1, 1, 1), heads=[0, 0, 0, 0, 8.0]), RULE)
    assert scales == [1, 1, 1, 1, pytest.approx(0.5)]


def test_many_tiny_contributions_of_one_account_do_not_make_the_others_too_long() -> None:
    """The median is over accounts: six of eve's, near zero, against five honest ones."""
    lengths = [1.0] * 5 + [0.01] * 6
    candidates = [c.model_copy(update={"author": c.author if i < 5 else "eve"}) for i, c in enumerate(crowd(11))]
    kept, refusals, scales = judge_tensors(candidates, Measures(axes(*lengths)), RULE)
    assert (kept, refusals, scales) == (list(range(11)), [], [1.0] * 11)


@pytest.mark.parametrize(
    ("lengths", "longest"),
    [((1, 1000), 1.5), ((1, 1.2, 1000), 1.8), ((1, 1.1, 1.2, 1000), 1.65), ((1, 1.4), 1.5), ((5,), 5)],
)
def test_fewer_than_five_are_capped_by_the_lower_median_and_not_refused(
    lengths: tuple[float, ...], longest: float
) -> None:
    """One attacker among two to four, a thousand times too long, would be all that is left of the fuse."""
    kept, refusals, scales = judged(axes(*lengths))
    assert (kept, refusals) == (list(range(len(lengths))), {})
    assert max(length * scale for length, scale in zip(lengths, scales, strict=True)) == pytest.approx(
        min(longest, max(lengths))
    )
    assert scales[:-1] == [1.0] * (len(lengths) - 1)
    assert judged(axes(1, 1, 1000), Screen(min_for_norms=3))[1] == {"u2/m": "norm_outlier"}


def test_one_account_among_two_does_not_set_the_length() -> None:
    """Four of eve's, long, and one of ann's: it is ann's that the others are held to."""
    candidates = [c.model_copy(update={"author": "eve" if i else "ann"}) for i, c in enumerate(crowd(5))]
    _, _, scales = judge_tensors(candidates, Measures(axes(1, 5, 5, 5, 5)), RULE)
    assert scales == [1.0, *[pytest.approx(0.3)] * 4]


def test_rounds_of_equal_lengths_are_left_alone_whatever_their_size() -> None:
    """The deviations have a median of 0 then, and the ratio alone decides."""
    for n in (1, 2, 3, 4, 5, 40):
        assert judged(axes(*[2.0] * n)) == (list(range(n)), {}, [1.0] * n)
        assert judged(axes(*[2.0] * n, 2.9))[2] == [1.0] * (n + 1)


def test_copies_and_broken_ones_do_not_count_for_the_median() -> None:
    """Ten copies of a huge one would otherwise make honest ones look small."""
    vectors = [[100.0, 0, 0, 0, 0]] * 10 + [[0.0] * i + [1.0] + [0.0] * (4 - i) for i in range(1, 5)]
    kept, refusals, _ = judged(gram(*vectors))
    assert kept == [10, 11, 12, 13]
    assert sorted(set(refusals.values())) == ["copy", "norm_outlier"]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=12))
def test_every_candidate_is_kept_or_refused_once_and_no_scale_is_above_one(lengths: list[float]) -> None:
    """And what is kept is, after its scale, not longer than 1½ medians or the spread allows."""
    kept, refusals, scales = judged(axes(*lengths))
    assert len(kept) + len(refusals) == len(lengths)
    assert all(0 < scale <= 1 for scale in scales)


def test_noise_is_refused_and_does_not_count_for_the_round() -> None:
    """In a round of any size, before lengths are compared; what could not be judged passes, and all if asked."""
    facts = Measures(axes(1, 1, 30, 1, 1, 1), order={1: 90.0, 2: 0.7, 4: None})
    kept, refusals, scales = judge_tensors(crowd(6), facts, RULE)
    assert (kept, [(r.repo, r.code) for r in refusals], scales) == ([0, 1, 3, 4, 5], [("u2/m", "noise")], [1.0] * 6)
    assert "excess 0.7" in refusals[0].reason
    assert judge_tensors(crowd(2), Measures(axes(1, 1), order={1: 0.7}), RULE)[0] == [0]
    for rule in ("note", "off"):
        assert judge_tensors(crowd(2), Measures(axes(1, 1), order={1: 0.7}), Screen(noise=rule))[0] == [0, 1]
    assert facts.only([4, 2]).order == {0: None, 1: 0.7}


def test_random_weights_and_those_of_another_base_are_not_kin() -> None:
    """Whatever their length, and however few contributions there are."""
    kept, refusals, _ = judge_tensors(crowd(2), Measures(axes(1, 1), kinship=[0.98, 0.05]), RULE)
    assert (kept, [(r.repo, r.code) for r in refusals]) == ([0], [("u1/m", "not_kin")])
    assert judge_tensors(crowd(2), Measures(axes(1, 1), kinship=[0.98, 0.05]), Screen(min_kinship=-1))[0] == [0, 1]


def test_the_mirror_image_of_an_earlier_one_is_refused() -> None:
    """Nobody trains the exact opposite."""
    assert judged(gram([1, 0], [-1, 0.1], [0, 1]))[:2] == ([0, 2], {"u1/m": "mirrored"})
    assert judged(gram([1, 0], [-1, 0.6], [0, 1]))[:2] == ([0, 1, 2], {})


def test_who_would_undo_what_all_others_did_is_refused() -> None:
    """Five orthogonal trainings and the negative of their mean; it is not the mirror image of any of them."""
    vectors = [*np.eye(5).tolist(), [-0.45] * 5]
    assert judged(gram(*vectors))[:2] == ([0, 1, 2, 3, 4], {"u5/m": "opposed"})
    assert judged(gram(*vectors), Screen(min_cosine=-1))[0] == [0, 1, 2, 3, 4, 5]


def test_all_against_each_other_leave_nobody_and_no_error() -> None:
    """The corners of a regular simplex: each points away from the mean of the others."""
    corners = np.eye(5) - 1 / 5
    kept, refusals, _ = judged(gram(*corners))
    assert (kept, set(refusals.values())) == ([], {"opposed"})


def test_a_change_in_one_layer_is_capped_and_a_spike_there_refused() -> None:
    """Of one length as wholes: who put all of it into one layer is shortened there from four medians on."""
    squared = {"layer.0": [0.04] * 5 + [1.0], "layer.1": [0.96] * 5 + [0.0]}
    kept, refusals, scales = judge_tensors(crowd(6), Measures(axes(*[1] * 6), layers=squared), RULE)
    assert (kept, refusals, scales) == (list(range(6)), [], [1, 1, 1, 1, 1, pytest.approx(0.8)])
    squared["layer.0"] = [0.0016] * 5 + [1.0]
    _, refusals, _ = judge_tensors(crowd(6), Measures(axes(*[1] * 6), layers=squared), RULE)
    assert [(r.repo, r.code) for r in refusals] == [("u5/m", "layer_outlier")]


def test_a_layer_that_few_train_is_not_judged() -> None:
    """Adapters, frozen embeddings: nobody is an outlier among four."""
    squared = {"embeddings": [0.0, 0.0, 0.001, 0.001, 0.001, 1.0]}
    kept, _, scales = judge_tensors(crowd(6), Measures(axes(*[1] * 6), layers=squared), RULE)
    assert (kept, scales) == (list(range(6)), [1.0] * 6)


def test_near_copies_from_many_accounts_have_one_vote_together() -> None:
    """Ten accounts with noise on one task vector, beside three strangers; without that they had ten of thirteen."""
    rows = np.eye(13)
    flood = [rows[0] + 0.1 * rows[i] for i in range(3, 13)]
    matrix = Measures(gram(*rows[:3].tolist()[1:], rows[12].tolist(), *[row.tolist() for row in flood]))
    shares = votes(crowd(13), "account", matrix)
    assert sum(shares) == pytest.approx(1)
    assert shares[:3] == pytest.approx([0.25] * 3)
    assert shares[3:] == pytest.approx([0.025] * 10)
    assert votes(crowd(13), "account") == pytest.approx([1 / 13] * 13)


def test_models_in_between_do_not_tie_strangers_votes_together() -> None:
    """A chain of small steps leads from one honest contribution to another; only its own links get lighter."""
    angles = [0.0, np.pi / 2, *np.linspace(0, np.pi / 2, 8)[1:-1]]
    matrix = Measures(gram(*[[float(np.cos(a)), float(np.sin(a))] for a in angles]))
    shares = votes(crowd(8), "account", matrix)
    assert shares[0] >= 1 / 8 - 1e-12 or shares[1] >= 1 / 8 - 1e-12
    assert min(shares[:2]) >= 1 / 16


def test_the_same_data_and_task_have_one_vote() -> None:
    """Both must be named, and be the same; spelling in capitals is the same."""
    named = {"task": "Sentiment", "datasets": ("imdb", "SST2")}
    people = [c.model_copy(update=named) for c in crowd(3)] + crowd(5)[3:]
    people[1] = people[1].model_copy(update={"task": "sentiment", "datasets": ("sst2", "IMDB")})
    assert votes(people, "account") == pytest.approx([1 / 9] * 3 + [1 / 3] * 2)
    apart = [c.model_copy(update={"task": str(i)}) for i, c in enumerate(people)]
    assert votes(apart, "account") == pytest.approx([1 / 5] * 5)


@pytest.mark.parametrize(
    ("authors", "most", "weights", "part"),
    [
        ("abcde", 1 / 8, [1 / 5] * 5, 5 / 8),
        ("abcdefgh", 1 / 8, [1 / 8] * 8, 1.0),
        ("aab", 1 / 4, [1 / 4, 1 / 4, 1 / 2], 1 / 2),
        ("ab", 1.0, [1 / 2] * 2, 1.0),
        ("a", 1 / 8, [1.0], 1 / 8),
        ("", 1 / 8, [], 1.0),
    ],
)
def test_nobody_has_more_of_a_step_than_the_recipe_allows(
    authors: str, most: float, weights: list[float], part: float
) -> None:
    """The rest stays with the parent: weight times part is never above it."""
    people = [c.model_copy(update={"author": a}) for c, a in zip(crowd(len(authors)), authors, strict=True)]
    found, taken = capped(people, votes(people, "account"), "account", most)
    assert found == pytest.approx(weights)
    assert taken == pytest.approx(part) or not authors


def test_an_organisations_contributions_share_its_vote() -> None:
    """Whoever uploaded them, and however its name is spelt."""
    people = [c.model_copy(update={"author": a}) for c, a in zip(crowd(3), ["Org", "org", "ann"], strict=True)]
    assert votes(people, "account") == pytest.approx([1 / 4, 1 / 4, 1 / 2])


@pytest.mark.parametrize("vote", ["account", "contribution"])
def test_votes_add_up_to_one(vote: str) -> None:
    """Also of none: a round of which nothing is left is not an error."""
    people = [c.model_copy(update={"author": a}) for c, a in zip(crowd(4), ["ann", "ann", "bob", "ann"], strict=True)]
    expected = {"account": [1 / 6, 1 / 6, 1 / 2, 1 / 6], "contribution": [1 / 4] * 4}
    assert votes(people, vote) == pytest.approx(expected[vote])
    assert votes([], vote) == []


@pytest.mark.parametrize(
    ("found", "demand", "code"),
    [
        ({"scansDone": True, "filesWithIssues": []}, "require", None),
        ({"scansDone": False, "filesWithIssues": []}, "require", "not_scanned"),
        ({"scansDone": False, "filesWithIssues": []}, "refuse", None),
        ({}, "require", "not_scanned"),
        ({}, "refuse", None),
        ({"scansDone": True, "filesWithIssues": [{"path": "x.pkl", "level": "unsafe"}]}, "refuse", "unsafe_files"),
        ({"scansDone": True, "filesWithIssues": [{"path": "x.pkl", "level": "unsafe"}]}, "ignore", None),
        ({"scansDone": True, "filesWithIssues": [{"path": "x.bin", "level": "caution"}]}, "require", None),
        ({"scansDone": True, "filesWithIssues": ["?"]}, "refuse", "unsafe_files"),
        ({"scansDone": True, "filesWithIssues": 5}, "require", None),
    ],
)
def test_the_hubs_own_scan_is_listened_to(found: dict[str, Any], demand: str, code: str | None) -> None:
    """Only what it calls unsafe counts; the Hub's answer may have any form."""
    rules = Contributions.model_validate({"security_scan": demand})
    refusal = refuse_standing(crowd(1)[0], {"securityRepoStatus": found}, rules)
    assert (refusal.code if refusal else None) == code


def test_downloads_are_those_of_today() -> None:
    """They change without any commit, so no listing that is kept can tell them."""
    rules = Contributions(min_downloads=3)
    found = [refuse_standing(crowd(1)[0], {"downloads": number}, rules) for number in (2, 3, None, "x")]
    assert [r.code if r else None for r in found] == ["few_downloads", None, None, None]


def test_statistics_larger_than_any_of_this_base_are_not_read() -> None:
    """Told by the listing alone; what would read them is never called."""
    wanted = Wanted(("fisher",), 1e-6, True, frozenset)
    base = {"w": TensorSpec("w", "F32", (4, 4), "model.safetensors", 0, 64)}

    def read() -> Any:
        raise AssertionError("it was read")

    refusal = check_brought(crowd(1)[0], wanted, Brought(10**12, read, None), base, base, {"w": "w"})
    assert refusal is not None
    assert (refusal.code, bool(refusal.fix)) == ("statistics_too_large", True)


# on a Hub ------------------------------------------------------------------------------------------------------------


def test_a_round_of_good_and_bad_contributions(world: World) -> None:
    """Survivors carry what the record needs: weight, norm, cosine; each refusal its code."""
    good = [world.contribute({"model.safetensors": save(finetuned(i))}) for i in (1, 2)]
    prefixed = {f"bert.{name}": t for name, t in finetuned(3).items()} | {"classifier.weight": torch.ones(2, 4)}
    good.append(world.contribute({"model.safetensors": save(prefixed)}))
    adapter = world.contribute(adapter_files())
    bad = {
        "unchanged": {"model.safetensors": save(tensors())},
        "copy": {"model.safetensors": save(finetuned(1))},
        "shape_mismatch": {"model.safetensors": save(tensors() | {"embeddings.LayerNorm.bias": torch.ones(5)})},
        "architecture_mismatch": {"model.safetensors": save({"encoder.w": torch.ones(2)})},
        "malformed_weights": {"model.safetensors.index.json": b'{"weight_map": {"w": "gone.safetensors"}}'},
    }
    refused = {world.contribute(files): code for code, files in bad.items()}
    found = [world.contribution(repo) for repo in (*good, *refused)] + [world.contribution(adapter, "adapter")]
    screened = world.screen(*found)
    assert {r.repo: r.code for r in screened.refusals} == refused
    assert {c.repo for c in screened.contributions} == {*good, adapter}
    assert sum(s.weight for s in screened.sources) == pytest.approx(1)
    for c, source in zip(screened.contributions, screened.sources, strict=True):
        assert (source.key, source.weight, source.scale) == (c.key, c.weight, c.scale)
        assert c.norm is not None
        assert c.norm > 0
        assert c.cosine is not None
        assert -1 <= c.cosine <= 1
        assert c.cosine != 0


def sharded(tmp_path: Path) -> dict[str, bytes]:
    """A finetune as save_pretrained writes it where the model is too large for one file."""
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**CONFIG), add_pooling_layer=False)
    model.load_state_dict(finetuned(1), strict=False)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="0.7KB")
    files = {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir() if "model" in path.name}
    assert "model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) == 2
    return files


def test_a_sharded_finetune_passes_beside_a_single_file(world: World, tmp_path: Path) -> None:
    """Its index comes along: without it nobody can open the shards."""
    files = sharded(tmp_path)
    repos = {world.contribute(files), world.contribute({"model.safetensors": save(finetuned(2))})}
    screened = world.screen(*(world.contribution(repo) for repo in sorted(repos)))
    assert screened.refusals == []
    assert {c.repo for c in screened.contributions} == repos


def test_an_index_of_tensors_that_no_shard_has_is_refused(world: World, tmp_path: Path) -> None:
    """From the headers, before anything is downloaded."""
    files, name = sharded(tmp_path), "model.safetensors.index.json"
    index = json.loads(files[name])
    index["weight_map"]["encoder.ghost"] = next(iter(index["weight_map"].values()))
    repo = world.contribute(files | {name: json.dumps(index).encode()})
    names, refusal = check_headers(world.hub, world.contribution(repo), base_headers(world.hub, world.base), dict)
    assert names == []
    assert refusal is not None
    assert refusal.code == "malformed_weights"
    assert "encoder.ghost" in refusal.reason


@pytest.mark.parametrize("vote", ["account", "contribution"])
def test_a_round_of_which_nothing_is_left_is_empty(world: World, vote: str) -> None:
    """Not an error: the loop waits for more."""
    repo = world.contribute({"model.safetensors": save(tensors())})
    screened = world.screen(world.contribution(repo), vote=vote)
    assert (screened.contributions, [r.code for r in screened.refusals]) == ([], ["unchanged"])


def test_a_repository_that_vanishes_is_refused_and_the_round_goes_on(world: World) -> None:
    """Between listing and download its author may delete it."""
    good = world.contribution(world.contribute({"model.safetensors": save(finetuned(1))}))
    user = good.author
    gone = world.contribution(world.contribute({"model.safetensors": save(finetuned(2))}, user=f"{user}x"))
    world.api(f"{user}x").delete_repo(gone.repo)
    screened = world.screen(gone, good)
    assert [c.repo for c in screened.contributions] == [good.repo]
    assert [r.repo for r in screened.refusals] == [gone.repo]


@pytest.mark.parametrize(
    ("error", "code"),
    [(WeightsError("cannot be read"), "unsupported_weights"), (MismatchError("quantized", "integers"), "quantized")],
)
def test_one_that_cannot_be_opened_is_refused_and_the_round_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, error: WeightsError, code: str
) -> None:
    """Whatever its headers on the Hub said."""
    good, bad = (world.contribution(world.contribute({"model.safetensors": save(finetuned(i))})) for i in (1, 2))

    class Opened(deltas.Deltas):
        def __init__(self, source: deltas.Source, *rest: Any) -> None:
            if source.key == bad.key:
                raise error
            super().__init__(source, *rest)

    for module in (screen_module, measure_module):
        monkeypatch.setattr(module, "Deltas", Opened)
    screened = world.screen(bad, good)
    assert [c.repo for c in screened.contributions] == [good.repo]
    assert [(r.repo, r.code, r.stage) for r in screened.refusals] == [(bad.repo, code, "screen")]


@pytest.mark.parametrize("bound", ["MAX_SHARDS", "MAX_HEADER_SUM", "MAX_TENSORS"])
def test_shards_headers_and_tensors_are_bounded_together(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Each shard alone may be well made."""
    files = sharded(tmp_path)
    contribution = world.contribution(world.contribute(files))
    base = base_headers(world.hub, world.base)
    assert check_headers(world.hub, contribution, base, dict)[1] is None
    monkeypatch.setattr(remote, bound, 1)
    refusal = check_headers(world.hub, contribution, base, dict)[1]
    assert refusal is not None
    assert refusal.code == "malformed_weights"
    assert "allowed are 1" in refusal.reason


def test_files_far_larger_than_the_base_are_not_fetched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the base in float32, and room for heads."""
    head = {"classifier.weight": torch.ones(1000, 4)}
    contribution = world.contribution(world.contribute({"model.safetensors": save(finetuned(1) | head)}))
    base = base_headers(world.hub, world.base)
    assert check_headers(world.hub, contribution, base, dict)[1] is None
    monkeypatch.setattr(screen_module, "ROOM", 0)
    names, refusal = check_headers(world.hub, contribution, base, dict)
    assert names == []
    assert refusal is not None
    assert (refusal.code, bool(refusal.fix)) == ("too_large", True)
