"""From a card to the tags the Hub shows and filters by.

The order is the Hub's: library, formats, model type, task, the card's own tags, languages, datasets, papers, base
models, licence, region. Every base gets two tags, ``base_model:ID`` and ``base_model:<relation>:ID``.

The card is written by strangers: any field may have any type. What has the wrong type is passed over.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

RELATIONS = ("adapter", "merge", "quantized", "finetune")
REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
PAPER = re.compile(
    r"(?:arxiv\.org/(?:abs|pdf|html)|(?:huggingface\.co|hf\.co)/papers|alphaxiv\.org/abs)/(\d{4}\.\d{4,5})", re.I
)
MAX_TAGS = 1000
MAX_TAG_CHARS = 300

TASK_OF_ARCHITECTURE = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
    "ForImageTextToText": "image-text-to-text",
    "ForSpeechSeq2Seq": "automatic-speech-recognition",
    "ForCTC": "automatic-speech-recognition",
    "Model": "feature-extraction",
}


@dataclass(frozen=True)
class Content:
    """What tags are made of: paths of the files, the card and the configs, as far as they could be read."""

    paths: tuple[str, ...]
    card: dict[str, Any] | None = None
    text: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] | None = None

    def has(self, suffix: str) -> bool:
        """Whether a file's name ends so."""
        return any(path.endswith(suffix) for path in self.paths)


def base_models(content: Content) -> tuple[str, list[str]] | None:
    """(relation, base ids) as the Hub infers them; None if the card names no base that can be one."""
    card = content.card or {}
    bases = _unique(name for name in strings(card.get("base_model")) if REPO_ID.fullmatch(name))
    if not bases:
        return None
    explicit = card.get("base_model_relation")
    if isinstance(explicit, str) and explicit in RELATIONS:
        return explicit, bases
    if content.adapter is not None:
        return "adapter", bases
    if len(bases) > 1 or "merge" in strings(card.get("tags")):
        return "merge", bases
    if content.has(".gguf") or content.has(".onnx") or content.config.get("quantization_config"):
        return "quantized", bases
    return "finetune", bases


def library(content: Content) -> str | None:
    """``library_name`` of the card, else what the files give away. A config.json alone says nothing."""
    named = (content.card or {}).get("library_name")
    if isinstance(named, str) and _is_tag(named):
        return named
    if content.adapter is not None:
        return "peft"
    if "modules.json" in content.paths and "config_sentence_transformers.json" in content.paths:
        return "sentence-transformers"
    if "model_index.json" in content.paths:
        return "diffusers"
    return None


def task(content: Content) -> str | None:
    """``pipeline_tag`` of the card, else the task of the architecture where the library is transformers."""
    named = (content.card or {}).get("pipeline_tag")
    if isinstance(named, str) and _is_tag(named):
        return named
    if library(content) == "transformers":
        for name in strings(content.config.get("architectures"))[:1]:
            for ending, found in TASK_OF_ARCHITECTURE.items():
                if name.endswith(ending):
                    return found
    return None


def tags(content: Content) -> list[str]:
    """All tags of a repository with this content, in the Hub's order, each once."""
    card = content.card or {}
    found: list[str | None] = [library(content)]
    if content.has("pytorch_model.bin") or content.has(".pt") or content.has(".pth"):
        found.append("pytorch")
    found += [tag for tag in ("onnx", "safetensors", "gguf") if content.has(f".{tag}")]
    if any("tfevents" in path for path in content.paths):
        found.append("tensorboard")
    found += strings(content.config.get("model_type"))[:1]
    found.append(task(content))
    found += strings(card.get("tags"))
    if isinstance(card.get("model-index"), list) and card["model-index"]:
        found.append("model-index")
    if content.config.get("auto_map"):
        found.append("custom_code")
    found += strings(card.get("language"))
    found += [f"dataset:{name}" for name in strings(card.get("datasets"))]
    if card.get("co2_eq_emissions") is not None:
        found.append("co2_eq_emissions")
    found += [f"arxiv:{number}" for number in PAPER.findall(content.text)]
    family = base_models(content)
    if family:
        relation, bases = family
        found += [f"base_model:{base}" for base in bases]
        found += [f"base_model:{relation}:{base}" for base in bases]
    found += [f"license:{name}" for name in strings(card.get("license"))]
    found.append("region:us")
    return clean(found)


def clean(tags: Iterable[str | None]) -> list[str]:
    """What can be a tag, each once, as many as are kept."""
    return _unique(tag for tag in tags if tag and _is_tag(tag))[:MAX_TAGS]


def _is_tag(tag: str) -> bool:
    return 0 < len(tag) <= MAX_TAG_CHARS and tag.isprintable()


def strings(value: Any) -> list[str]:
    """A field that may be a text or a list: its texts."""
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
