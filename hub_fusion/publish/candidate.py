"""Whether a candidate is what its record says and fits the base, for a process that did not make it.

Weights have the base's tensors: names, shapes and dtypes, and the sha256 of the record, both of the same bytes. What
comes beside them is read as what it should be. Not covered: whether the numbers are good, which is the gate's to judge
where they were made; the parameters of an adapter are held to its form and rank, not to the base's modules.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hub_fusion.errors import OutputError, WeightsError
from hub_fusion.hub import Hub
from hub_fusion.publish.commit import HEAD_FILES, STALE
from hub_fusion.publish.grown import grown
from hub_fusion.publish.state import BaseState
from hub_fusion.recipe import Recipe
from hub_fusion.records import Generation, Head
from hub_fusion.weights.adapter_config import AdapterConfig, parse_config
from hub_fusion.weights.checkpoint import (
    INDEX,
    SHARD,
    TensorSpec,
    header_length,
    parse_header,
    read_index,
    weights_sha256,
)
from hub_fusion.weights.names import kind_of, some
from hub_fusion.weights.remote import ADAPTER, ADAPTER_CONFIG, RESIDUAL, checkpoint_headers
from hub_fusion.weights.store import own_file

CODE = (".py", ".pyc", ".so", ".sh", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
SMALL = 50_000_000  # bytes of an index; a head or a configuration has thousands
PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


def check_candidate(hub: Hub, recipe: Recipe, state: BaseState, record: Generation, folder: Path) -> None:
    """Raise OutputError or WeightsError if `folder` holds anything else than `record` says; reads all weights once."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.name.lower().endswith((*STALE, *CODE)):
            raise OutputError(f"{path} is a link, a pickle or code: a candidate is safetensors and JSON alone")
    adapter = recipe.publish.kind == "adapter"
    if not (set(record.weights) == {ADAPTER} if adapter else all(map(SHARD.fullmatch, record.weights))):
        raise OutputError(f"{sorted(record.weights)[:5]} are no names of weights in safetensors")
    if not record.weights or (not adapter and ADAPTER in record.weights):
        raise OutputError("the record names no weights that this base can have")
    tensors = _tensors(folder, record.weights)
    if adapter:
        _check_adapter(folder, tensors, recipe)
    else:
        _check_like(tensors, grown(hub, recipe, state, record, _expected(hub, recipe, state), folder))
        _check_index(folder, tensors)
    if strange := {str(score.task) for score in record.heads} - {task.name for task in recipe.head_tasks}:
        raise OutputError(f"{sorted(strange)[:3]} are no tasks whose heads the recipe asks for")
    _check_heads(folder, record)
    residual = [p.relative_to(folder).as_posix() for p in sorted(folder.glob("fusion/*.st"))]
    if any(not RESIDUAL.fullmatch(name) for name in residual) or (residual and not recipe.merge.residual):
        raise OutputError(f"{residual[:3]} are no residual that the recipe asks for")
    lost = {name: spec for name in residual for name, spec in _read(own_file(folder, name))[1].items()}
    if not {n: s.shape for n, s in lost.items()}.items() <= {n: s.shape for n, s in tensors.items()}.items():
        raise WeightsError("the residual has tensors that the weights have not")


def _read(path: Path) -> tuple[str, dict[str, TensorSpec]]:
    """sha256 and tensors of the same bytes."""
    with path.open("rb") as file:
        size, prefix = os.fstat(file.fileno()).st_size, file.read(8)
        header = file.read(header_length(prefix, source=str(path)))
        digest, count = hashlib.sha256(prefix + header), len(prefix) + len(header)
        while block := file.read(1 << 20):
            digest.update(block)
            count += len(block)
    if count != size:
        raise OutputError(f"{path} changes while it is read")
    return digest.hexdigest(), parse_header(header, size, source=str(path))[0]


def _tensors(folder: Path, weights: Mapping[str, str]) -> dict[str, TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for name, wanted in weights.items():
        digest, tensors = _read(own_file(folder, name))
        if digest != wanted:
            raise OutputError(f"{folder / name} has the sha256 {digest}, its record says {wanted}")
        if twice := sorted(found.keys() & tensors):
            raise WeightsError(f"{folder}: {some(twice)} are in two files")
        found |= {tensor: TensorSpec(**{**vars(spec), "file": name}) for tensor, spec in tensors.items()}
    return found


def _expected(hub: Hub, recipe: Recipe, state: BaseState) -> dict[str, TensorSpec]:
    base, dropped = checkpoint_headers(hub, state.repo, state.head), recipe.merge.heads == "drop"
    return {name: spec for name, spec in base.items() if not (dropped and kind_of(name) == "task")}


def _check_like(tensors: Mapping[str, TensorSpec], base: Mapping[str, TensorSpec]) -> None:
    ours, theirs = ({(n, s.dtype, s.shape) for n, s in found.items()} for found in (tensors, base))
    if other := sorted({name for name, *_ in ours ^ theirs}):
        raise WeightsError(f"a generation has the base's tensors; {len(other)} differ: {some(other)}")


def _check_index(folder: Path, tensors: Mapping[str, TensorSpec]) -> None:
    if not (folder / INDEX).exists():
        if len({spec.file for spec in tensors.values()}) > 1:
            raise OutputError(f"{folder} has shards and no {INDEX}")
        return
    if read_index(_text(folder, INDEX), source=INDEX) != {name: spec.file for name, spec in tensors.items()}:
        raise WeightsError(f"{folder / INDEX} lists other tensors than the shards have")


def _check_adapter(folder: Path, tensors: Mapping[str, TensorSpec], recipe: Recipe) -> None:
    text = _text(folder, ADAPTER_CONFIG)
    config, raw = AdapterConfig.from_json(text, source=ADAPTER_CONFIG), parse_config(text, source=ADAPTER_CONFIG)
    if config.kind != "LORA" or config.base != recipe.base or raw.get("auto_mapping"):
        raise WeightsError(f"{ADAPTER_CONFIG} is not that of a LoRA adapter of {recipe.base}")
    pairs = {(n, n.removesuffix(a) + b) for n in tensors for a, b in PAIRS if n.endswith(f".{a}")}
    strange = sorted(tensors.keys() ^ {name for pair in pairs for name in pair})
    strange += [name for name, spec in tensors.items() if spec.dtype != "F32" or len(spec.shape) != 2]
    if not strange:
        shapes = {a: (tensors[a].shape[0], tensors[b].shape[1]) for a, b in pairs}
        strange = [name for name, (one, other) in shapes.items() if not one == other <= recipe.publish.rank]
    if strange or not pairs:
        raise WeightsError(f"{ADAPTER} has other tensors than pairs of rank {recipe.publish.rank} or less: "
                           f"{some(strange)}")  # fmt: skip


def _check_heads(folder: Path, record: Generation) -> None:
    """Those of the record, and no others."""
    digest = weights_sha256(record.weights)
    for score in record.heads:
        tensors_file, about_file = (f"heads/{score.task}/{file}" for file in HEAD_FILES)
        about = Head.from_json(_text(folder, about_file), source=about_file)
        found, tensors = _read(own_file(folder, tensors_file))
        if (about.base, about.generation, about.weights_sha256) != (record.base, record.generation, digest):
            raise OutputError(f"{about_file} is of another generation")
        if found != about.sha256 or tensors.keys() != {"weight", "bias"}:
            raise OutputError(f"{tensors_file} is not the head that {about_file} describes")


def _text(folder: Path, name: str) -> str:
    path = own_file(folder, name)
    if path.stat().st_size > SMALL:
        raise OutputError(f"{path} has more than {SMALL} bytes")
    return path.read_text(encoding="utf-8", errors="replace")
