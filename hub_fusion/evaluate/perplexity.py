"""Perplexity: how well a language model predicts held-out plain text, without any training.

Texts are joined by the tokenizer's end token, cut into windows of equal length without overlap (what is left over at
the end is not read), and the score of a window is its mean log-likelihood per predicted token, in nats: larger is
better, and perplexity is e to its negative. What is predicted depends on the model:

* decoders: every token of a window from those before it in the window (the first from the beginning token, if any);
* masked language models: a share of the tokens, replaced by the mask token, from all others, in one pass; the seed
  chooses them, the same for every checkpoint. That is their training loss, not a probability of the text;
* encoder-decoders: the second half of a window from the first, which the encoder reads.

Not covered: models that lack their language-model head; comparing checkpoints that split the texts otherwise (tokens
that occur in them are not kept in a generation, see suite.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import RecipeError
from hub_fusion.evaluate.models import load_language_model, load_tokenizer, longest_input, quiet
from hub_fusion.evaluate.tasks import CAP_SEED, TaskData
from hub_fusion.recipe import Perplexity
from hub_fusion.records import Role
from hub_fusion.weights.compute import split_on_out_of_memory

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]
LOGITS = 2**26  # floats of logits in a batch: a quarter of a gigabyte
FLOOR = -100.0  # nats, of a prediction that is not finite or worse


def run_perplexity(
    folder: Path, task: TaskData, settings: Perplexity, seeds: Sequence[int], max_length: int | None = None, *,
    device: str = "cpu", progress: Callable[[str], None] | None = None, count: Callable[[int], object] = lambda _: None,
) -> dict[Role, Array]:  # fmt: skip
    """Per test part a matrix (1, windows) float64, of masked language models (seeds, windows): log-likelihoods.

    Raises WeightsError for a checkpoint that is no language model, RecipeError for a text of fewer than two tokens.
    """
    if progress:
        progress(f"perplexity on {task.name}")
    model, kind = load_language_model(folder, device=device)
    tokenizer = load_tokenizer(folder, task.name)
    size = min(settings.window, longest_input(folder, tokenizer, settings.window) - 2)  # room for special tokens
    found: dict[Role, Array] = {}
    for role, part in task.parts.items():
        windows = cut(_tokens(tokenizer, part.inputs[:, 0].tolist()), size, settings.windows)
        if not len(windows):
            raise RecipeError(f"task {task.name!r}: its {role} text has fewer than two tokens; give it more text")
        rows = [
            _batches(windows, kind, tokenizer, settings, seed) for seed in (seeds if kind == "masked" else seeds[:1])
        ]
        found[role] = np.stack([_score(model, batch_of, windows.shape, device) for batch_of in rows])
    return found


def cut(tokens: Array, size: int, most: int) -> Array:
    """Tokens (n,) → windows (windows, size) in order; one shorter window if there is not one of that size.

    Of more than `most` windows a fixed random choice. Fewer than two tokens: no window.
    """
    if len(tokens) < size:
        return tokens[None] if len(tokens) > 1 else tokens[:0, None]
    windows = tokens[: len(tokens) // size * size].reshape(-1, size)
    if len(windows) > most:
        windows = windows[np.sort(np.random.default_rng(CAP_SEED).permutation(len(windows))[:most])]
    return windows


def _tokens(tokenizer: Any, texts: Sequence[str]) -> Array:
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    found: list[int] = []
    with quiet():  # the tokenizer would warn of texts longer than the model
        for number, text in enumerate(texts):
            if number and end is not None:
                found.append(end)
            found += tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.array(found, dtype=np.int64)


def _batches(
    windows: Array, kind: str, tokenizer: Any, settings: Perplexity, seed: int
) -> Callable[[Array], tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Rows of windows → what the model takes, and the token to be predicted at each place of its logits, −100: none."""
    import torch

    def around(inner: Array, first: int | None, last: int | None) -> Array:
        columns = [np.full((len(inner), 1), edge) for edge in (first, last) if edge is not None]
        return np.hstack([*columns[: first is not None], inner, *columns[first is not None :]])

    def causal(rows: Array) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        tokens = torch.from_numpy(around(windows[rows], tokenizer.bos_token_id, None))
        return {"input_ids": tokens}, torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=-100)

    def masked(rows: Array) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        inner = np.where(hidden[rows], tokenizer.mask_token_id, windows[rows])
        wanted = np.where(hidden[rows], windows[rows], -100)
        edges = tokenizer.cls_token_id, tokenizer.sep_token_id
        unwanted = [None if edge is None else -100 for edge in edges]
        return {"input_ids": torch.from_numpy(around(inner, *edges))}, torch.from_numpy(around(wanted, *unwanted))

    def halves(rows: Array) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        half = windows.shape[1] // 2
        wanted = torch.from_numpy(windows[rows, half:])
        read = torch.from_numpy(around(windows[rows, :half], None, tokenizer.eos_token_id))
        return {"input_ids": read, "labels": wanted}, wanted

    if kind == "masked":
        if tokenizer.mask_token_id is None:
            raise RecipeError("perplexity of a masked language model needs the tokenizer's mask token; it has none")
        hidden = np.zeros(windows.shape, dtype=bool)
        places = np.argsort(np.random.default_rng([seed, *windows.shape]).random(windows.shape), axis=1)
        np.put_along_axis(hidden, places[:, : max(1, round(settings.mask * windows.shape[1]))], True, 1)
    return {"causal": causal, "masked": masked, "seq2seq": halves}[kind]


def _score(
    model: torch.nn.Module,
    batch_of: Callable[[Array], tuple[dict[str, torch.Tensor], torch.Tensor]],
    shape: tuple[int, ...],
    device: str,
) -> Array:
    """Mean log-likelihood of what is predicted in each window, (windows,) float64."""
    import torch

    def likelihoods(rows: Array) -> Array:
        inputs, wanted = batch_of(rows)
        logits = model(**{name: value.to(device) for name, value in inputs.items()}).logits.float()
        wanted = wanted.to(device)
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        sums = torch.nan_to_num(-losses.double(), nan=FLOOR).clamp(min=FLOOR).sum(1)
        means: Array = (sums / (wanted != -100).sum(1)).cpu().numpy()
        return means

    windows, size = shape
    batch = max(1, min(64, LOGITS // (size * int(model.config.vocab_size))))  # type: ignore[union-attr, arg-type]
    found = np.empty(windows)
    with torch.inference_mode():
        for start in range(0, windows, batch):
            for rows, values in split_on_out_of_memory(likelihoods, np.arange(start, min(start + batch, windows))):
                found[rows] = values
    return found
