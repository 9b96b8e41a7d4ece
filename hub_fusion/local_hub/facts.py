"""What the Hub reads out of a repository's files: card, tags, config, parameter counts.

A pure function of a tree, computed once when the tree is first committed and kept beside it. A file that cannot be
read gives nothing; it never stops a commit.
"""

import json
import struct
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from hub_fusion.local_hub import cards, frontmatter, kind_tags
from hub_fusion.local_hub.blobs import BlobStore
from hub_fusion.local_hub.trees import Entry, Tree

MAX_CARD_BYTES = 4 * 2**20
MAX_CONFIG_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 100 * 2**20
CONFIG_KEYS = ("architectures", "model_type", "auto_map", "quantization_config")
ADAPTER_KEYS = ("base_model_name_or_path", "task_type", "peft_type")

Facts = dict[str, Any]


def derive(blobs: BlobStore, tree: Tree) -> Facts:
    """card, tags (a model's; tags_of: the other kinds'), library, pipeline, config, safetensors, bases.

    Each None where there is nothing to tell.
    """
    card, text = _card(blobs, tree)
    config = read_json(blobs, tree.get("config.json")) or {}
    adapter = read_json(blobs, tree.get("adapter_config.json"))
    content = cards.Content(tuple(tree), card, text, config, adapter)
    family = cards.base_models(content)
    shown = {key: config[key] for key in CONFIG_KEYS if key in config}
    if adapter is not None:
        shown["peft"] = {key: adapter[key] for key in ADAPTER_KEYS if key in adapter}
    return {
        "card": card,
        "tags": cards.tags(content),
        "tags_of": {"dataset": kind_tags.dataset_tags(content), "space": kind_tags.space_tags(content)},
        "library": cards.library(content),
        "pipeline": cards.task(content),
        "config": shown or None,
        "safetensors": parameters(blobs, tree),
        "bases": {"relation": family[0], "models": family[1]} if family else None,
    }


def _card(blobs: BlobStore, tree: Tree) -> tuple[dict[str, Any] | None, str]:
    """(front matter, {} where the card has none and None where it is broken; the text of the card)."""
    entry = tree.get("README.md")
    if entry is None or blobs.size(entry.blob) is None:
        return {}, ""
    raw = blobs.read(entry.blob, MAX_CARD_BYTES).decode("utf-8", "replace")
    block, text = frontmatter.split(raw)
    if block is None:
        return {}, text
    try:
        return frontmatter.parse(block), text
    except frontmatter.BadFrontMatter:
        return None, text


def read_json(blobs: BlobStore, entry: Entry | None) -> dict[str, Any] | None:
    """The JSON object in this file; None if there is none that can be read."""
    if entry is None or entry.size > MAX_CONFIG_BYTES:
        return None
    try:
        value = json.loads(blobs.read(entry.blob), parse_constant=lambda _: None)
        json.dumps(value)
    except (ValueError, RecursionError, FileNotFoundError):
        return None
    return value if isinstance(value, dict) else None


def safetensors_header(blobs: BlobStore, entry: Entry) -> dict[str, Any] | None:
    """The header of a safetensors file; None if it is not one."""
    if entry.size < 8 or blobs.size(entry.blob) is None:
        return None
    with blobs.path(entry.blob).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(entry.size - 8, MAX_HEADER_BYTES):
            return None
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None


def shards(blobs: BlobStore, tree: Tree) -> list[Entry]:
    """The weight files that make up the model: the single one, those of the index, or all at the top level."""
    if "model.safetensors" in tree:
        return [tree["model.safetensors"]]
    index = read_json(blobs, tree.get("model.safetensors.index.json"))
    if index and isinstance(index.get("weight_map"), dict):
        names = dict.fromkeys(name for name in index["weight_map"].values() if isinstance(name, str))
        return [tree[name] for name in names if name in tree]
    return [entry for path, entry in tree.items() if PurePosixPath(path).suffix == ".safetensors" and "/" not in path]


def parameters(blobs: BlobStore, tree: Tree) -> dict[str, Any] | None:
    """``{"parameters": {dtype: elements}, "total": n}`` from the headers; None without readable weights."""
    counts: Counter[str] = Counter()
    for entry in shards(blobs, tree):
        for name, tensor in (safetensors_header(blobs, entry) or {}).items():
            if name == "__metadata__" or not isinstance(tensor, dict):
                continue
            dtype, shape = tensor.get("dtype"), tensor.get("shape")
            if isinstance(dtype, str) and isinstance(shape, list):
                elements = 1
                for size in shape[:64]:
                    elements *= size if type(size) is int and 0 <= size < 2**48 else 0
                counts[dtype[:32]] += min(elements, 2**62)
    if not counts:
        return None
    total = min(sum(counts.values()), 2**62)
    return {"parameters": dict(counts), "total": total}
