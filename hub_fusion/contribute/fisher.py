"""The diagonal Fisher information F = E_x E_{y∼p(y|x)} (∂ log p(y|x))², from gradients of single examples.

Of a classifier the expectation over the labels is exact, or where there are more of them than the budget, that many
labels are drawn from the model's own distribution: no bias, more variance. Of a language model one token is drawn at
every place, given the text before it; its scores have mean zero, so that the square of their sum has the expectation
of the sum of their squares. Squares of the mean gradient of a batch, which others use, are another thing: too small by
about the size of the batch. The examples' own labels are never used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from hub_fusion.errors import WeightsError
from hub_fusion.weights.kinds import kind_of

if TYPE_CHECKING:
    import torch

    from hub_fusion.contribute.gram import Batch, Batches

Examples = Callable[[], Iterator["Batch"]]


def find_parameters(model: torch.nn.Module, names: Mapping[str, str]) -> dict[str, torch.nn.Parameter]:
    """Name on disk → parameter, of all that are fused."""
    found = {names[memory]: p for memory, p in model.named_parameters() if memory in names and p.is_floating_point()}
    return {name: p for name, p in found.items() if kind_of(name) != "task"}


def fisher_diagonals(
    model: torch.nn.Module, parameters: Mapping[str, torch.nn.Parameter], batches: Batches, *, tokens: bool,
    labels: int, seed: int, memory_bytes: int,
) -> Iterator[tuple[str, torch.Tensor]]:  # fmt: skip
    """Each parameter's name with its diagonal, float64. `tokens`: of a language model; `labels`: the budget.

    Parameters whose sums would not fit into memory together take passes of their own, which draw the same labels.
    """
    import torch

    for part in _parts(parameters, memory_bytes):
        chosen = [parameters[name] for name in part]
        before = [p.requires_grad for p in model.parameters()]
        for p in model.parameters():
            p.requires_grad_(False)
        for p in chosen:
            p.requires_grad_(True)
        sums = [torch.zeros(p.shape, dtype=torch.float64, device=p.device) for p in chosen]
        random, count = torch.Generator().manual_seed(seed), 0
        try:
            for example in singles(batches):
                terms = _token_terms(model, example, random) if tokens else _label_terms(model, example, labels, random)
                for weight, log_probability, more in terms:
                    gradients = torch.autograd.grad(log_probability, chosen, retain_graph=more, allow_unused=True)
                    for total, gradient in zip(sums, gradients, strict=True):
                        if gradient is not None:
                            total.add_(gradient.double().square_(), alpha=weight)
                count += 1
        finally:
            for p, needed in zip(model.parameters(), before, strict=True):
                p.requires_grad_(needed)
        if not count:
            raise WeightsError("there is no example to compute Fisher information from")
        for name, total in zip(part, sums, strict=True):
            if not torch.isfinite(total).all():
                raise WeightsError(f"the Fisher information of {name} is not finite: is the model well?")
            yield name, total / count


def estimator(classes: int | None, labels: int) -> str:
    """What the diagonal estimates, in a word; `classes` is None for language models."""
    if classes is None:
        return "one sampled token per place"
    return "exact" if classes <= labels else f"{labels} sampled labels"


def singles(batches: Batches) -> Iterator[Batch]:
    """Batches as batches of one example each, without its padding."""
    for batch in batches():
        mask = batch.get("attention_mask")
        for i in range(len(next(iter(batch.values())))):
            one = {name: values[i : i + 1] for name, values in batch.items()}
            if mask is not None and mask.dim() == 2:
                real = mask[i].bool()
                fits = {n for n, v in one.items() if v.shape[1:] == real.shape}
                one = {n: v[:, real] if n in fits else v for n, v in one.items()}
            yield one


def _label_terms(
    model: torch.nn.Module, example: Batch, budget: int, random: torch.Generator
) -> Iterator[tuple[float, torch.Tensor, bool]]:
    """(weight, log p(y|x), whether others follow) for every label, or for as many drawn ones as the budget says."""
    import torch

    log = torch.log_softmax(model(**example).logits.float().reshape(-1), dim=0)
    p = log.detach().exp().cpu().double()
    if len(log) <= budget:
        chosen, weights = list(range(len(log))), p.tolist()
    else:
        chosen = torch.multinomial(p, budget, replacement=True, generator=random).tolist()
        weights = [1 / budget] * budget
    for place, (label, weight) in enumerate(zip(chosen, weights, strict=True), start=1):
        yield weight, log[label], place < len(chosen)


def _token_terms(
    model: torch.nn.Module, example: Batch, random: torch.Generator
) -> Iterator[tuple[float, torch.Tensor, bool]]:
    """The log-probability of tokens drawn at all places at once."""
    import torch

    log = torch.log_softmax(model(**example).logits.float()[0], dim=-1)
    drawn = torch.multinomial(log.detach().exp().cpu().double(), 1, generator=random)
    yield 1.0, log.gather(1, drawn.to(log.device)).sum(), False


def _parts(parameters: Mapping[str, torch.nn.Parameter], memory_bytes: int) -> list[Sequence[str]]:
    """Names of parameters whose sums (float64) and gradients fit into memory together, at least one in each part."""
    parts: list[list[str]] = []
    room = 0
    for name, p in parameters.items():
        need = 12 * p.numel()
        if not parts or need > room:
            parts.append([])
            room = memory_bytes
        parts[-1].append(name)
        room -= need
    return list(parts)
