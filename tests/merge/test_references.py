"""Equality with the formulas of papers and authors, transcribed plainly; where definitions differ, a note says how.

Equal weights make our sums theirs. Tolerances are those of float32 results of sums in another order.
"""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_fusion.merge import find_method

from .method_harness import fisher_like, gram_of_inputs, run
from .test_methods import random_deltas

seeds = st.integers(0, 2**31)
few = settings(max_examples=15, deadline=None)
NAMES = ["0", "1", "2", "3"]


@few
@given(seed=seeds, votes=st.sampled_from(["total", "frequency"]), equal=st.booleans())
def test_ties_with_the_divisor_count_equals_peft(seed: int, votes: str, equal: bool) -> None:
    """peft.utils.merge_utils elects without weights, then multiplies by them and divides by how many agree.

    Ours elects with weights; so they are equal here, or all signs are.
    """
    from peft.utils.merge_utils import ties as peft_ties

    deltas, weights = random_deltas(seed)
    if not equal:
        deltas, weights = deltas.abs(), torch.tensor([0.1, 0.2, 0.3, 0.4])
    reference = peft_ties(list(deltas), weights * 4, 0.5, votes)
    merged = run("ties", deltas, weights, density=0.5, votes=votes, divisor="count")
    torch.testing.assert_close(merged, reference, rtol=1e-5, atol=1e-6)


@few
@given(seed=seeds)
def test_fisher_equals_matena_and_raffel(seed: int) -> None:
    """merging.py of mmatena/model_merging, on whole weights, every model with a floor (favor_target_model=False)."""
    deltas, _ = random_deltas(seed)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    base = torch.randn(deltas.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    information = torch.stack([fisher_like(d, c) for d, c in zip(deltas, NAMES, strict=True)])
    left, right = torch.zeros_like(base), torch.zeros_like(base)
    for weight, importance, delta in zip(weights.double(), information.double(), deltas.double(), strict=True):
        diagonal = weight * importance.clamp_min(1e-6)
        left += diagonal
        right += diagonal * (base + delta)
    merged = run("fisher", deltas, weights, cap=0.0).double()
    torch.testing.assert_close(base + merged, right / left, rtol=1e-5, atol=1e-6)


@few
@given(seed=seeds, alpha=st.sampled_from([1.0, 0.9, 0.1]))
def test_regmean_equals_bloomberg(seed: int, alpha: float) -> None:
    """avg_merger.py of dataless-model-merging: inverse of the summed Gram matrices, on whole weights stored (in, out).

    It has no ridge; 40 inputs make Gram matrices of full rank here.
    """
    random = torch.Generator().manual_seed(seed)
    deltas, weights = random_deltas(seed)
    base = torch.randn(6, 5, generator=random, dtype=torch.float64)
    inputs = torch.randn(4, 40, 5, generator=random)
    grams = inputs.transpose(1, 2) @ inputs / 40
    reduced = [gram.double() * alpha + (1 - alpha) * gram.double().diag().diag() for gram in grams]
    total = sum(g @ (base + d).T for g, d in zip(reduced, deltas.double(), strict=True))
    reference = (torch.inverse(sum(reduced)) @ total).T
    method = find_method("regmean").bind({"alpha": alpha, "ridge": 0.0})
    merged = method(deltas, weights, activations=grams)
    torch.testing.assert_close(base + merged.double(), reference, rtol=1e-4, atol=1e-5)
    rows = torch.cat([method(part, weights, activations=grams) for part in deltas.split(2, dim=1)])
    torch.testing.assert_close(rows, merged, rtol=1e-5, atol=1e-6)  # by rows


def test_regmean_gives_the_mean_where_no_input_arrived() -> None:
    """A column that no token reached: the authors' inverse does not exist, and pseudo-inverses would give 0."""
    deltas = torch.tensor([[[2.0, 2.0]], [[4.0, 4.0]]])
    grams = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    merged = find_method("regmean").bind({})(deltas, torch.tensor([0.5, 0.5]), activations=grams)
    torch.testing.assert_close(merged, torch.tensor([[2.5, 3.0]]), rtol=1e-5, atol=0)


@few
@given(seed=seeds)
def test_wudi_equals_its_authors_descent(seed: int) -> None:
    """wudi_main.py with torch's Adam and autograd, in float64; deltas of 1e-3, which 50 steps of 1e-5 move."""
    deltas, weights = random_deltas(seed, n=3)
    deltas *= 1e-3
    vectors = deltas.double()
    merging = torch.nn.Parameter(vectors.sum(dim=0))
    optimizer = torch.optim.Adam([merging], lr=1e-5, weight_decay=0)
    norms = vectors.square().sum(dim=(1, 2))
    for _ in range(50):
        product = torch.matmul(merging.unsqueeze(0) - vectors, vectors.transpose(1, 2))
        loss = (product.square() / norms.reshape(-1, 1, 1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(
        run("wudi", deltas, weights, iterations=50).double(), merging.detach(), rtol=1e-4, atol=1e-9
    )


@few
@given(seed=seeds, common=st.sampled_from([0.4, 0.8]), shape=st.sampled_from([(12, 9), (9, 12)]))
def test_iso_cts_equals_its_authors(seed: int, common: float, shape: tuple[int, int]) -> None:
    """utils/iso.py of danielm1405/iso-merging, in float64; matrices of full rank, where nothing is left out."""
    deltas, weights = random_deltas(seed, n=2, shape=shape)
    n, rank, task = 2, min(shape), deltas.double()
    own = round((rank - int(rank * common)) / n)
    shared = rank - own * n
    u, s, v = torch.linalg.svd(task.sum(dim=0), full_matrices=False)
    left, sigma, right = [], [], []
    for matrix in task:
        u_own, s_own, v_own = torch.linalg.svd(matrix - u[:, :shared] @ u[:, :shared].T @ matrix, full_matrices=False)
        left.append(u_own[:, :own])
        sigma.append(s_own[:own])
        right.append(v_own[:own])
    u_u, _, v_u = torch.linalg.svd(torch.cat([*left, u[:, :shared]], dim=1), full_matrices=False)
    u_v, _, v_v = torch.linalg.svd(torch.cat([*right, v[:shared]], dim=0), full_matrices=False)
    reference = (u_u @ v_u) @ (u_v @ v_v) * torch.cat([*sigma, s[:shared]]).mean()
    torch.testing.assert_close(run("iso_cts", deltas, weights, common=common).double(), reference, rtol=1e-4, atol=1e-5)


@few
@given(seed=seeds, shape=st.sampled_from([(6, 9), (30, 4)]))
def test_knots_equals_its_authors_on_one_layer(seed: int, shape: tuple[int, int]) -> None:
    """task_merger.py of gstoica27/KnOTS: svd of the matrices side by side, TIES on Σ·Vᵢ, times U. Both ways to U."""
    deltas, weights = random_deltas(seed, n=3, shape=shape)
    u, s, v = torch.linalg.svd(torch.cat(list(deltas.double()), dim=1), full_matrices=False)
    coordinates = torch.stack([s.diag() @ part for part in v.split(shape[1], dim=1)])
    expected = u @ run("ties", coordinates.float(), weights, density=0.5).double()
    torch.testing.assert_close(run("knots", deltas, weights, density=0.5).double(), expected, rtol=1e-4, atol=1e-5)


@few
@given(seed=seeds, shape=st.sampled_from([(6, 5), (3, 20), (40, 3)]), name=st.sampled_from(["knots", "core_space"]))
def test_common_coordinates_lose_nothing(seed: int, shape: tuple[int, int], name: str) -> None:
    """With the mean inside, the merge is the mean; also for matrices of low rank."""
    deltas, weights = random_deltas(seed, n=3, shape=shape)
    deltas[1] = deltas[1, :, :1] @ deltas[1, :1]
    torch.testing.assert_close(run(name, deltas, weights, inner="mean"), deltas.mean(dim=0), rtol=1e-5, atol=1e-5)


@few
@given(seed=seeds)
def test_core_space_does_not_depend_on_how_outputs_and_inputs_are_turned(seed: int) -> None:
    """Its bases turn along: TIES sees the same numbers up to signs. Plain TIES would not."""
    deltas, weights = random_deltas(seed, n=3)
    turn_left, turn_right = (
        torch.linalg.qr(torch.randn(k, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[
            0
        ].float()
        for k in (6, 5)
    )
    merged = run("core_space", turn_left @ deltas @ turn_right, weights, density=0.5)
    expected = turn_left @ run("core_space", deltas, weights, density=0.5) @ turn_right
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-3)


@few
@given(seed=seeds, beta=st.sampled_from([0.01, 0.2, 1.0]))
def test_subspace_boosting_equals_its_published_code(seed: int, beta: float) -> None:
    """Clamp at the first singular value with which the cumulative share reaches the threshold, in float64."""
    deltas, weights = random_deltas(seed)
    u, s, v = torch.linalg.svd(deltas.double().mean(dim=0), full_matrices=False)
    reached = (s.cumsum(0) / s.sum() >= beta).nonzero()
    cutoff = int(reached[0]) if len(reached) else len(s) - 1
    reference = (u * s.clamp(min=s[cutoff])) @ v
    merged = run("subspace_boosting", deltas, weights, beta=beta).double()
    torch.testing.assert_close(merged, reference, rtol=1e-4, atol=1e-5)


@few
@given(seed=seeds)
def test_sce_selection_equals_mergekits(seed: int) -> None:
    """sce_mask, sign_consensus_mask, sce_weight and the mean of what is not erased in mergekit's sce.py."""
    deltas, weights = random_deltas(seed)
    variance = torch.var(deltas, dim=0, unbiased=False)
    mask = torch.zeros_like(variance)
    mask.view(-1)[torch.topk(variance.view(-1), k=int(0.4 * variance.count_nonzero())).indices] = 1
    masked = deltas * mask
    shares = masked.square().sum(dim=(1, 2))
    shares = (shares / shares.sum()).reshape(-1, 1, 1)
    agrees = masked.sign() == (masked.sum(dim=0) >= 0) * 2 - 1
    divisor = (shares * agrees).sum(dim=0)
    reference = (masked * shares * agrees).sum(dim=0) / divisor.masked_fill(divisor == 0, 1)
    torch.testing.assert_close(run("sce", deltas, weights, select=0.4), reference, rtol=1e-4, atol=1e-5)


@few
@given(seed=seeds)
def test_breadcrumbs_within_tensors_equals_mergekits_mask(seed: int) -> None:
    """magnitude_outliers of mergekit's sparsify.py, whose density counts the outliers too: 0.45 there is 0.5 here."""
    deltas, _ = random_deltas(seed, n=1, shape=(10, 10))
    order = deltas[0].abs().view(-1).sort().indices
    mask = torch.zeros(100)
    mask[order[100 - 45 - 10 : -10]] = 1
    merged = run("breadcrumbs", deltas, torch.ones(1), gamma=0.1, density=0.5, scale=1.0, within="tensor")
    assert torch.equal(merged, deltas[0] * mask.reshape(10, 10))


def test_statistics_that_are_not_there_leave_the_weighted_mean() -> None:
    """Whether the engine hands over None or nothing."""
    deltas, _ = random_deltas(0)
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    expected = run("mean", deltas, weights)
    for name, statistic in (("fisher", "fisher"), ("regmean", "activations")):
        method = find_method(name).bind({})
        assert torch.equal(method(deltas, weights), expected)
        assert torch.equal(method(deltas, weights, **{statistic: None}), expected)
    assert gram_of_inputs(5, "0").shape == (5, 5)
