"""Pieces that several merge methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hub_fusion.merge.inputs import Stack


def weighted_sum(deltas: torch.Tensor | Stack, coefficients: torch.Tensor) -> torch.Tensor:
    """Σ cᵢ·δᵢ in order, shape of one delta."""
    pairs = zip(deltas, coefficients, strict=True)
    first, coefficient = next(pairs)
    merged: torch.Tensor = first * coefficient
    for delta, coefficient in pairs:
        merged.add_(delta * coefficient)
    return merged


def as_sum(weights: torch.Tensor) -> torch.Tensor:
    """Coefficients of a sum rather than a mean: n·wᵢ, which is 1 for each where all weights are equal."""
    return weights * len(weights)


def elect(deltas: torch.Tensor, weights: torch.Tensor, votes: str = "total") -> torch.Tensor:
    """The sign of Σ wᵢ·δᵢ for every element, +1 where it is 0, shape of one delta; with "frequency" of Σ wᵢ·sign(δᵢ).

    Summed in float64, where products of float32 are exact, so that the order does not decide near-ties.
    """
    import torch

    total = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    for delta, weight in zip(deltas, weights.double(), strict=True):
        total.add_((delta if votes == "total" else delta.sign()).double() * weight)
    return torch.where(total >= 0, 1.0, -1.0).to(deltas.dtype)


def mean_of_agreeing(
    deltas: torch.Tensor, weights: torch.Tensor, votes: str = "total", divisor: str = "weights",
    electors: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """For every element the weighted mean of those that are not 0 and have the elected sign; 0 where there are none.

    With the divisor "count" the weighted sum, weights relative to their mean, over the number of those that agree; with
    "none" that sum itself. `electors` are the weights of the votes, if they are others.
    """
    import torch

    sign = elect(deltas, weights if electors is None else electors, votes)
    coefficients = weights if divisor == "weights" else as_sum(weights)
    total, shares = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, coefficients, strict=True):
        agrees = delta * sign > 0
        total.add_(torch.where(agrees, delta * weight, 0.0))
        shares.add_(agrees * weight if divisor == "weights" else agrees)
    if divisor == "none":
        return total
    return torch.where(shares > 0, total / shares.clamp_min(torch.finfo(shares.dtype).tiny), 0.0)


def largest(deltas: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` largest magnitudes of each delta, zeros elsewhere; ties by lowest index first."""
    import torch

    flat = deltas.reshape(len(deltas), -1)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat).scatter(1, order, flat.gather(1, order)).reshape(deltas.shape)


def restore_norm(kept: torch.Tensor, deltas: torch.Tensor) -> torch.Tensor:
    """What was kept of each delta, lengthened until its L1 norm is again that of the whole delta; 0 stays 0."""
    import torch

    before, after = (torch.stack([part.double().abs().sum() for part in parts]) for parts in (deltas, kept))
    ratio = torch.where(after > 0, before / after.clamp_min(torch.finfo(after.dtype).tiny), 0.0)
    return kept * ratio.to(kept.dtype).reshape(-1, *[1] * (deltas.dim() - 1))


def as_rows(deltas: torch.Tensor) -> torch.Tensor:
    """(contributions, rows, columns): a row is what lies along the last dimension; a single number is a row of one."""
    if deltas.dim() == 1:
        return deltas.reshape(len(deltas), 1, 1)
    rows = deltas[0].numel() // deltas.shape[-1] if deltas.shape[-1] else 0
    return deltas.reshape(len(deltas), rows, deltas.shape[-1])


def row_ranks(rows: torch.Tensor) -> torch.Tensor:
    """Rank of every element's magnitude within its row, 0 for the smallest; ties by highest index first."""
    order = rows.abs().flip(-1).argsort(dim=-1, stable=True)
    return order.argsort(dim=-1).flip(-1)
