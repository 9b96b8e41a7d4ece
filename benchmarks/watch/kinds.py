"""What people upload under a popular base, as a table: one entry for each kind of fault, with the verdict it deserves.

`SOUND` are what should be fused, `METADATA` the faults that a listing tells, `HEADERS` those that headers tell, and
`UNLISTED` what the Hub does not list among the children of the base: it cannot read the card, or the card does not name
the base. The kinds were collected from the Hub's documentation and from public reports of what goes wrong there.
scan.py makes thousands of them; tests/contributions/test_kinds.py looks at each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save

BASE = "acme/base"
CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 11, "hidden_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 6, "max_position_embeddings": 8, "type_vocab_size": 1,
}  # fmt: skip
LAYER = "encoder.layer.0."
QUERY = f"{LAYER}attention.self.query"
SINGLE, INDEX, SHARDS = "model.safetensors", "model.safetensors.index.json", "model-0000{}-of-00002.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
UNLISTED_VERDICT = "(not listed)"
Files = dict[str, bytes]


@dataclass(frozen=True)
class Kind:
    """A repository as someone leaves it. `front` is its card's front matter, `expected` a refusal's code or nothing."""

    expected: str
    front: str
    files: Files
    private: bool = False
    gated: bool = False
    own: bool = field(default=False)  # under the account of the base itself


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """A BERT of one layer without a pooler: the base for seed 0, else something of the same shapes."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (11, 4), "embeddings.position_embeddings.weight": (8, 4),
        "embeddings.token_type_embeddings.weight": (1, 4),
    }  # fmt: skip
    linear = {
        "attention.self.query": (4, 4), "attention.self.key": (4, 4), "attention.self.value": (4, 4),
        "attention.output.dense": (4, 4), "intermediate.dense": (6, 4), "output.dense": (4, 6),
    }  # fmt: skip
    for name, shape in linear.items():
        shapes |= {f"{LAYER}{name}.weight": shape, f"{LAYER}{name}.bias": shape[:1]}
    for norm in ("embeddings.LayerNorm", f"{LAYER}attention.output.LayerNorm", f"{LAYER}output.LayerNorm"):
        shapes |= {f"{norm}.weight": (4,), f"{norm}.bias": (4,)}
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def root_files() -> Files:
    """The base's repository."""
    card = b"---\nlicense: apache-2.0\n---\n# The base\n"
    return {"config.json": json.dumps(CONFIG).encode(), SINGLE: save(tensors()), "README.md": card}


def full(changes: dict[str, Any] | None = None, **config: Any) -> Files:
    """A whole finetune; a change that is None takes the tensor away."""
    made = tensors(1) | (changes or {})
    return {SINGLE: save({n: t for n, t in made.items() if t is not None}),
            "config.json": json.dumps(CONFIG | config).encode(), "training_args.bin": b"\x80\x02}q\x00."}  # fmt: skip


def sharded(second: bool = True) -> Files:
    """The same in two shards and an index."""
    names = sorted(tensors(1))
    parts = names[: len(names) // 2], names[len(names) // 2 :]
    index = {name: SHARDS.format(number) for number, part in enumerate(parts, start=1) for name in part}
    made = {SHARDS.format(n): save({m: tensors(1)[m] for m in part}) for n, part in enumerate(parts, start=1)}
    files = made if second else {SHARDS.format(1): made[SHARDS.format(1)]}
    return files | {INDEX: json.dumps({"metadata": {}, "weight_map": index}).encode()}


def adapter(target: str = QUERY, width: int = 4, config: bytes | None = None) -> Files:
    """A LoRA adapter of one layer."""
    random = np.random.default_rng(3)
    factors = {
        f"base_model.model.{target}.lora_A.weight": random.normal(size=(2, width)).astype(np.float32),
        f"base_model.model.{target}.lora_B.weight": random.normal(size=(4, 2)).astype(np.float32),
    }
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": BASE, "target_modules": "all"}
    return {ADAPTER_CONFIG: config or json.dumps(settings).encode(), ADAPTER: save(factors)}


def header(text: bytes, data: bytes = b"") -> Files:
    """A finetune with this header."""
    return {SINGLE: len(text).to_bytes(8, "little") + text + data}


def front(**more: Any) -> str:
    """The front matter of a good card, but for the changes; None takes a field away."""
    fields = {"base_model": BASE, "license": "mit", "library_name": "transformers", "language": ["en"],
              "datasets": ["imdb"], "tags": ["hub-fusion", "generated_from_trainer"]} | more  # fmt: skip
    return yaml.safe_dump({name: value for name, value in fields.items() if value is not None}, sort_keys=False)


def text(license: str = "license: mit", tags: str = "tags: [hub-fusion]", more: str = "") -> str:
    """Front matter of these lines as they are."""
    return f"base_model: {BASE}\n{license}\n{tags}\n{more}"


def kind(expected: str, front: str, files: Files | None = None, **more: bool) -> Kind:
    return Kind(expected, front, full() if files is None else files, **more)


BODY = {f"bert.{name}": array for name, array in tensors(1).items()}
HALF = {name: array.astype(np.float16) for name, array in tensors(1).items()}
INT8 = {name: array.astype(np.int8) for name, array in tensors(1).items()}
OVERLAP = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'

SOUND = {
    "a finetune": kind("", front()),
    "prefixed names and a head": kind(
        "", front(), {SINGLE: save(BODY | {"classifier.weight": np.zeros((3, 4), np.float32)})}),
    "in 16 bits": kind("", front(), {SINGLE: save(HALF)}),
    "in two shards": kind("", front(), sharded()),
    "an adapter": kind("", front(library_name="peft"), adapter()),
    "the base in a list of one": kind("", front(base_model=[BASE])),
    "results of wrong types": kind("", text(more="eval_results: 5\nmodel-index: x\n")),
    "one tag as a text": kind("", text(tags="tags: hub-fusion")),
    "pickles beside safetensors": kind("", front(), full() | {"pytorch_model.bin": b"\x80\x02}q\x00."}),
}  # fmt: skip

METADATA = {
    "no consent": kind("no_consent", front(tags=["generated_from_trainer"])),
    "no tags": kind("no_consent", front(tags=None)),
    "tags are a number": kind("no_consent", text(tags="tags: 5")),
    "tags are a mapping": kind("no_consent", text(tags="tags: {hub-fusion: true}")),
    "consent that is no true": kind("no_consent", text(tags='hub_fusion: {contribute: "yes"}')),
    "hub_fusion is a list": kind("no_consent", text(tags="hub_fusion: [contribute]")),
    "a generation of another loop": kind("no_consent", text(more="hub_fusion: {generation: 3}\n")),
    "opted out": kind("opted_out", front(tags=["hub-fusion", "no-fusion"])),
    "no licence": kind("license_missing", front(license=None)),
    "a list of licences": kind("license_missing", front(license=["mit", "apache-2.0"])),
    "licence is a number": kind("license_missing", text("license: 5")),
    "licence is NaN": kind("license_missing", text("license: .nan")),
    "licence is null": kind("license_missing", text("license:")),
    "licence is a mapping": kind("license_missing", text("license: {name: mit}")),
    "licence is empty": kind("license_missing", text('license: ""')),
    "licence no": kind("license_unknown", text("license: no")),
    "licence other": kind("license_unknown", front(license="other", license_name="mine")),
    "licence not for commerce": kind("license_not_allowed", front(license="cc-by-nc-4.0")),
    "licence against derivatives": kind("license_no_derivatives", front(license="cc-by-nd-4.0")),
    "licence of Llama": kind("license_not_allowed", front(license="llama3.1")),
    "data sets that are mappings": kind("malformed_card", text(more="datasets: [{a: 1}]\n")),
    "control characters in the licence": kind("malformed_card", text('license: "m\\x1b[2Jit"')),
    "merged of two": kind("merged", front(base_model=[BASE, "someone/else"])),
    "tagged as a merge": kind("merged", front(tags=["hub-fusion", "mergekit", "merge"])),
    "quantised for llama.cpp": kind("quantized", front(), full() | {"model-Q4_K_M.gguf": b"GGUF"}),
    "quantised, as its configuration says": kind("quantized", front(), full(quantization_config={"bits": 4})),
    "an ONNX file beside the weights": kind("quantized", front(), full() | {"onnx/model.onnx": b"onnx"}),
    "another base with our tag": kind(
        "other_base", front(base_model="someone/else", tags=["hub-fusion", f"base_model:{BASE}",
                                                             f"base_model:finetune:{BASE}"])),
    "a merged adapter that says adapter": kind("no_safetensors", front(base_model_relation="adapter")),
    "an adapter that says finetune": kind("no_safetensors", front(base_model_relation="finetune"), adapter()),
    "pickles only": kind("no_safetensors", front(), {"pytorch_model.bin": b"\x80\x02}q\x00."}),
    "an adapter in a pickle": kind(
        "no_safetensors", front(), {ADAPTER_CONFIG: adapter()[ADAPTER_CONFIG], "adapter_model.bin": b"\x80\x02."}),
    "an adapter whose configuration is broken": kind("no_safetensors", front(), adapter(config=b'{"peft_type":')),
    "nothing but a card": kind("no_safetensors", front(), {}),
    "weights in a folder": kind("no_safetensors", front(), {"checkpoint-500/model.safetensors": full()[SINGLE]}),
    "gated": kind("gated", front(), gated=True),
    "the base's own account": kind("own_repo", front(), own=True),
}  # fmt: skip

HEADERS = {
    "truncated": kind("malformed_weights", front(), {SINGLE: full()[SINGLE][:-5]}),
    "a few bytes": kind("malformed_weights", front(), {SINGLE: b"12345"}),
    "a pickle under another name": kind("malformed_weights", front(), {SINGLE: b"\x80\x04\x95" + bytes(100)}),
    "a header of 10 GB": kind("malformed_weights", front(), {SINGLE: (10 * 2**30).to_bytes(8, "little") + b"{}"}),
    "a header that is no JSON": kind("malformed_weights", front(), header(b'{"a":' + b"[" * 2000)),
    "tensors on the same bytes": kind("malformed_weights", front(), header(OVERLAP, bytes(8))),
    "an index of shards that are not there": kind("malformed_weights", front(), sharded(second=False)),
    "an index that is no JSON": kind("malformed_weights", front(), {INDEX: b"{", SHARDS.format(1): full()[SINGLE]}),
    "no tensors": kind("architecture_mismatch", front(), header(b"{}")),
    "a layer less": kind(
        "architecture_mismatch", front(), full({n: None for n in tensors() if n.startswith(f"{LAYER}output")})),
    "another model": kind("architecture_mismatch", front(), {SINGLE: save({"wte.weight": np.zeros(4, np.float32)})}),
    "wider than the base": kind("shape_mismatch", front(), full({f"{QUERY}.weight": np.zeros((8, 8), np.float32)})),
    "eight bits that say finetune": kind("quantized", front(), {SINGLE: save(INT8)}),
    "an adapter of another base": kind("architecture_mismatch", front(), adapter("model.layers.0.self_attn.q_proj")),
    "an adapter of a wider base": kind("shape_mismatch", front(), adapter(width=6)),
    "an adapter with a scale that is no number": kind(
        "unsupported_weights", front(), adapter(config=b'{"peft_type": "LORA", "lora_alpha": "x"}')),
}  # fmt: skip

UNLISTED = {
    name: kind(UNLISTED_VERDICT, front, **more)  # type: ignore[arg-type]
    for name, front, more in [
        ("broken YAML", f"base_model: {BASE}\nlicense: [mit\ntags: [hub-fusion]\n", {}),
        ("a key twice", text(more="license: apache-2.0\n"), {}),
        ("no mapping", f"- base_model: {BASE}\n- license: mit\n", {}),
        ("a YAML bomb", text(more="a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{name}: &{name} [{','.join([f'*{of}'] * 9)}]\n" for of, name in zip("abcdef", "bcdefg", strict=True)
        )), {}),
        ("a Python object", text(more="x: !!python/object/apply:os.system ['true']\n"), {}),
        ("no base", front(base_model=None), {}),
        ("an empty list of bases", front(base_model=[]), {}),
        ("a local path as the base", front(base_model="/home/ann/base"), {}),
        ("a number as the base", text().replace(BASE, "5"), {}),
        ("another base", front(base_model="someone/else"), {}),
        ("private", front(), {"private": True}),
    ]
}  # fmt: skip

KINDS = {**SOUND, **METADATA, **HEADERS, **UNLISTED}
