"""Open a checkpoint folder the way somebody who finetunes it would: a body, or a body with a fresh head.

Everything that is not in the checkpoint is initialised from (seed, tensor name) alone, so that parent and candidate
get the same head whatever heads their folders hold. Only local safetensors files, never code from the folder, no
network. Not covered: encoder-decoders, quantised checkpoints, adapters that were not fused.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.tasks import TaskData

if TYPE_CHECKING:
    import torch

Encode = Callable[[np.ndarray[Any, Any]], "dict[str, torch.Tensor]"]
SAFE = {"local_files_only": True, "trust_remote_code": False}


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, load reports and warnings of transformers inside; its settings are restored afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_body(folder: Path, *, device: str = "cpu") -> torch.nn.Module:
    """The model without a head, float32, in evaluation mode. Raises WeightsError if the folder does not fill it."""
    from transformers import AutoModel

    return _load(AutoModel, folder, seed=0, device=device).eval()


def load_classifier(folder: Path, task: TaskData, *, seed: int, device: str = "cpu") -> torch.nn.Module:
    """The model with a fresh head for `task`, float32; the head depends on `seed` and on the tensors' names only."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto = AutoModelForImageClassification if task.kind == "image" else AutoModelForSequenceClassification
    return _load(auto, folder, seed=seed, device=device, num_labels=task.num_labels)


def load_encode(folder: Path, task: TaskData, *, max_length: int) -> Encode:
    """A function from a task's inputs to what the model takes; for text, with the folder's tokenizer.

    Raises RecipeError if the images do not have the model's size, WeightsError if there is no usable tokenizer.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} has no usable config.json: {error}") from None
    if task.kind == "image":
        size = getattr(config, "image_size", None)
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        wanted = (getattr(config, "num_channels", None), high, wide)
        given = task.train.inputs.shape[1:]
        if any(w is not None and w != g for w, g in zip(wanted, given, strict=True)):
            raise RecipeError(f"task {task.name!r}: pixel_values are {given}, the model takes {wanted}; resize them")
        return lambda inputs: {"pixel_values": torch.from_numpy(inputs)}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} has no usable tokenizer for task {task.name!r}: {error}") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    longest = min(
        max_length, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or max_length
    )

    def encode(texts: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
        columns = [list(column) for column in texts.T]
        return dict(tokenizer(*columns, padding=True, truncation=True, max_length=longest, return_tensors="pt"))

    return encode


def _load(auto: Any, folder: Path, *, seed: int, device: str, **options: Any) -> Any:
    import torch

    if (folder / "adapter_config.json").exists():
        raise WeightsError(f"{folder} is an adapter, or holds one; a checkpoint to be measured must be a whole model")
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            model, report = auto.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True, **SAFE, **options,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be opened by {auto.__name__}: {error}") from None
    body = "" if model.base_model is model else f"{model.base_model_prefix}."
    mismatched = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    fresh = (
        {n for n, _ in model.named_parameters() if not n.startswith(body)} | set(report["missing_keys"]) | mismatched
    )
    # A pooler may be fresh: masked-language-model bases have none. Any other hole would be a half-random model.
    holes = sorted(n for n in fresh if n.startswith(body) and (n in mismatched or "pooler" not in n))
    if holes:
        raise WeightsError(
            f"{folder} lacks {len(holes)} tensors of the body, or has them in another shape, e.g. {holes[:4]}; "
            "fuse it anew"
        )
    for name, parameter in model.named_parameters():
        if name in fresh:
            _initialise(parameter, name, seed, float(getattr(model.config, "initializer_range", 0.02)))
    if getattr(model.config, "pad_token_id", None) is None:  # decoders need it to find the last token
        model.config.pad_token_id = getattr(model.config, "eos_token_id", None)
    return model.to(device)


def _initialise(parameter: torch.nn.Parameter, name: str, seed: int, spread: float) -> None:
    """Matrices normal with standard deviation `spread`, scales 1, biases 0."""
    import torch

    if parameter.ndim < 2:
        torch.nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        return
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(key))
    parameter.data.copy_(values * spread)
