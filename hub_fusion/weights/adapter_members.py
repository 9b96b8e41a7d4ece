"""The adapters of one frozen base that are to become one: opened, checked against each other, heads set aside.

What an adapter's file holds beyond its factors needs the base's weights to be fused (trained biases, saved modules,
trainable tokens, DoRA's norms), which are not read here: such adapters are refused by name and can be fused into
weights instead. Task heads are left out, as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hub_fusion.errors import WeightsError
from hub_fusion.weights.adapter_config import WEIGHTS, AdapterConfig, first_match, read_lora_config
from hub_fusion.weights.adapter_experts import factors_on_parameter, stack_of
from hub_fusion.weights.adapter_modules import EMBEDDINGS, OUTPUTS, Module, ends_with, modules_of
from hub_fusion.weights.adapter_plan import check_factors
from hub_fusion.weights.checkpoint import FLOATS, Checkpoint, TensorSpec
from hub_fusion.weights.names import MismatchError, kind_of

REPO = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
TASKS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")  # those whose PeftModel adds no head of its own
INSTEAD = "fuse it into weights with hub-fusion fuse, or leave it out"


@dataclass(frozen=True)
class Member:
    """One adapter, opened: factors by module and kind, and the heads that are left out."""

    key: str
    config: AdapterConfig
    files: Checkpoint
    coefficient: float
    modules: dict[str, Module]
    dropped: tuple[str, ...]
    own: Mapping[str, str]  # module → what it is called in this adapter

    @classmethod
    def open(cls, key: str, folder: Path, coefficient: float, names: Mapping[str, str] | None = None) -> Member:
        """`names` maps the adapter's modules to common names; modules without one are left out.

        Raises WeightsError for what cannot be fused without the base's weights.
        """
        config, files = read_lora_config(folder), Checkpoint.open(folder, WEIGHTS)
        modules, dropped = check_member(config, files, key, experts=names is None)
        if names is not None:
            modules = {names[name]: module for name, module in modules.items() if name in names}
        own = {name: name for name in modules} if names is None else {common: name for name, common in names.items()}
        return cls(key, config, files, coefficient, modules, dropped, own)

    def scaling(self, module: str, rank: int) -> float:
        """What B·A is multiplied with."""
        return self.config.scaling(self.own[module], rank)

    def experts(self, module: str) -> tuple[int, int, float] | None:
        """Of a stack of experts: how many, and the rank and scaling of each."""
        where = f"{self.key}: adapter module {module[:200]!r}"
        return stack_of(self.own[module], self.modules[module], self.files, self.config, where)

    def pair(self, module: str) -> tuple[str, str, int] | None:
        """Names of A and B, and the rank, or None where this adapter leaves the module alone."""
        found = self.modules.get(module)
        if found is None:
            return None
        kind = "lora_embedding_" if any("embedding" in part for part in found.factors) else "lora_"
        where = f"{self.key}: adapter module {module[:200]!r}"
        if strange := found.factors.keys() - {f"{kind}A", f"{kind}B"}:
            raise WeightsError(f"{where} has {', '.join(sorted(strange))} beside {kind}A and {kind}B: {INSTEAD}")
        if stack := self.experts(module):
            return *factors_on_parameter(found, self.files, self.config, where), stack[1]
        a, b = found.factors.get(f"{kind}A"), found.factors.get(f"{kind}B")
        rank = check_factors(where, a, b, kind, self.files)
        assert a is not None and b is not None
        return a, b, rank


def check_member(
    config: AdapterConfig, files: Mapping[str, TensorSpec], key: str, *, experts: bool = False
) -> tuple[dict[str, Module], tuple[str, ...]]:
    """The modules that an adapter changes, and the task heads that are left out; from headers.

    `experts`: stacks of them (target_parameters) are taken too.

    Raises WeightsError for what cannot be fused without the base's weights.
    """
    stacks = bool(config.parameters) and not experts
    used = [word for word, there in (("DoRA", config.dora), ("trainable tokens", bool(config.tokens)),
                                     ("trained biases", config.bias != "none"),
                                     ("ensure_weight_tying", config.tied),
                                     ("target_parameters", stacks)) if there]  # fmt: skip
    modules, dropped = {}, []
    for name, module in modules_of(files, config.kind).items():
        if "task" in {kind_of(name), kind_of(name.partition(".")[2])}:
            dropped.append(name)
            continue
        copy = ends_with(name, (*EMBEDDINGS, *OUTPUTS)) and not first_match(dict.fromkeys(config.saved), name)
        if module.leaves and not copy:
            used.append(f"a trained copy of {name[:100]}")
        if "lora_B.bias" in module.factors:
            used.append("lora_bias")
        if module.factors:
            modules[name] = module
    if used:
        raise WeightsError(f"{key} has {', '.join(dict.fromkeys(used[:3]))}, which only the base's weights can be "
                           f"fused with: {INSTEAD}")  # fmt: skip
    if not modules:
        raise WeightsError(f"{key} changes nothing but task heads: leave it out")
    strange = [name for m in modules.values() for name in m.factors.values() if files[name].dtype not in FLOATS]
    if strange:
        raise WeightsError(f"{key}: {strange[0][:200]!r} is {files[strange[0]].dtype}: save it as floats")
    return modules, tuple(dropped)


def check_members(members: Sequence[Member]) -> None:
    """Raise WeightsError unless all are of one kind and can be adapters of one model under the same names."""
    kinds = sorted({m.config.kind for m in members})
    if len(kinds) > 1:
        raise WeightsError(f"adapters of one kind can be fused into one adapter, these are {', '.join(kinds)}: "
                           "fuse them into weights with hub-fusion fuse, or fuse each kind by itself")  # fmt: skip
    targets = {frozenset(m.config.parameters) for m in members}
    if len(targets) > 1:
        named = "; ".join(f"{m.key}: {', '.join(m.config.parameters)[:100] or 'none'}" for m in members[:3])
        raise WeightsError(f"the adapters have different target_parameters ({named}), so that PEFT names their factors "
                           f"differently: {INSTEAD}")  # fmt: skip
    paths = {m.key: _paths(m.modules) for m in members}
    everywhere = {path for own in paths.values() for path in own}
    for member in members:
        own = paths[member.key]
        for path in sorted(own):
            short = path.partition(".")[2]
            if short.count(".") > 1 and short in everywhere and short not in own:
                other = next(key for key, theirs in paths.items() if short in theirs)
                raise WeightsError(
                    f"{member.key} names {path[:100]} what {other} names {short[:100]}: they were trained on different "
                    "classes of the base; load both under one class and save them again"
                )


def _paths(modules: Mapping[str, Module]) -> set[str]:
    """All modules and what they are in."""
    found = set()
    for name in modules:
        parts = name.split(".")
        found |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return found


def common_config(configs: Sequence[AdapterConfig], base: str | None) -> dict[str, object]:
    """What the fused adapter's configuration says of base and task. Raises WeightsError if the bases differ."""
    named = sorted({c.base for c in configs if c.base and REPO.fullmatch(c.base)})
    if base is None and len({name.lower() for name in named}) > 1:
        raise MismatchError("other_base", f"the adapters name different bases ({', '.join(named[:3])}): "
                            "say which one is meant with --base, if they are the same")  # fmt: skip
    tasks = {c.task for c in configs}
    task = tasks.pop() if len(tasks) == 1 else None
    return {"base_model_name_or_path": base or (named[0] if named else None), "revision": None, "inference_mode": True,
            "task_type": task if task in TASKS else None}  # fmt: skip
