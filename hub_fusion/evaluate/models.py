"""Open a checkpoint folder the way somebody who finetunes it would: a body, or a body with a fresh head.

Everything that is not in the checkpoint is initialised from (seed, tensor name) alone, so that parent and candidate
get the same head whatever heads their folders hold; only a language model keeps its own. Encoders, decoders and
encoder-decoders; of the latter the body is the encoder, and a classifier takes both. Only local safetensors files,
never code from the folder, no network. Not covered: quantised checkpoints, adapters that were not fused.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hub_fusion.errors import RecipeError, WeightsError
from hub_fusion.evaluate.task_images import image_encoder
from hub_fusion.evaluate.tasks import TaskData

if TYPE_CHECKING:
    import torch

LanguageModel = Literal["causal", "masked", "seq2seq"]
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

    model = _load(AutoModel, folder, seed=0, device=device).eval()
    body: torch.nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model
    return body


def load_classifier(folder: Path, task: TaskData, *, seed: int, device: str = "cpu") -> torch.nn.Module:
    """The model with a fresh head for `task`, float32; the head depends on `seed` and on the tensors' names only."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto = AutoModelForImageClassification if task.kind == "image" else AutoModelForSequenceClassification
    model = _load(auto, folder, seed=seed, device=device, num_labels=task.num_labels)
    if task.kind == "text":  # decoders find the last token of a text by what is not padding
        model.config.pad_token_id = load_tokenizer(folder, task.name).pad_token_id
    return model


def load_language_model(folder: Path, *, device: str = "cpu") -> tuple[torch.nn.Module, LanguageModel]:
    """The model with the language-model head of its checkpoint, float32, in evaluation mode, and what it predicts.

    Raises WeightsError if there is none.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    config = load_config(folder)
    if getattr(config, "is_encoder_decoder", False):
        return _load(AutoModelForSeq2SeqLM, folder, seed=0, device=device, own_head=True).eval(), "seq2seq"
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return _load(AutoModelForMaskedLM, folder, seed=0, device=device, own_head=True).eval(), "masked"
    return _load(AutoModelForCausalLM, folder, seed=0, device=device, own_head=True).eval(), "causal"


def load_config(folder: Path) -> Any:
    """The model's configuration. Raises WeightsError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} has no usable config.json: {error}") from None


def load_tokenizer(folder: Path, task: str) -> Any:
    """The folder's tokenizer; where it has no padding token, the end token pads. Raises WeightsError."""
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder} has no usable tokenizer for task {task!r}: {error}") from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def longest_input(folder: Path, tokenizer: Any, default: int) -> int:
    """How many tokens model and tokenizer take, special ones included; `default` + 2 where they say nothing."""
    places = getattr(load_config(folder), "max_position_embeddings", None)
    return min(tokenizer.model_max_length, places or default + 2)


def load_encode(folder: Path, task: TaskData, *, max_length: int) -> Encode:
    """A function from a task's inputs to what the model takes; for text, with the folder's tokenizer.

    Raises RecipeError if the images do not have the model's size, WeightsError if there is no usable tokenizer.
    """
    import torch

    config = load_config(folder)
    if task.train.form == "image":
        return image_encoder(folder, task.name, getattr(config, "num_channels", None) or 3)
    if task.kind == "image":
        size = getattr(config, "image_size", None)
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        wanted = (getattr(config, "num_channels", None), high, wide)
        given = task.train.inputs.shape[1:]
        if any(w is not None and w != g for w, g in zip(wanted, given, strict=True)):
            raise RecipeError(f"task {task.name!r}: pixel_values are {given}, the model takes {wanted}; resize them")
        return lambda inputs: {"pixel_values": torch.from_numpy(inputs)}
    tokenizer = load_tokenizer(folder, task.name)
    longest = min(max_length, longest_input(folder, tokenizer, max_length))

    def encode(texts: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
        columns = [list(column) for column in texts.T]
        return dict(tokenizer(*columns, padding=True, truncation=True, max_length=longest, return_tensors="pt"))

    return encode


def _load(auto: Any, folder: Path, *, seed: int, device: str, own_head: bool = False, **options: Any) -> Any:
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
    fresh = set(report["missing_keys"]) | mismatched
    if own_head and fresh:
        raise WeightsError(
            f"{folder} lacks {len(fresh)} tensors of {type(model).__name__}, e.g. {sorted(fresh)[:4]}: only a language "
            "model with its own head has a perplexity; measure one, or leave tasks of plain text out"
        )
    fresh |= {n for n, _ in model.named_parameters() if not n.startswith(body) and not own_head}
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
