"""The adapter that comes of a fuse: shapes and configuration from headers, tensors one module at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, Literal

from hub_fusion.errors import MergeError, WeightsError
from hub_fusion.weights.adapter_experts import packed, unpacked
from hub_fusion.weights.adapter_factors import Fused, Pair, average, cat, read_array, relative, svd
from hub_fusion.weights.adapter_members import Member
from hub_fusion.weights.adapter_modules import PREFIX
from hub_fusion.weights.adapter_plan import MAX_RANK
from hub_fusion.weights.adapter_write import CONFIG, Shapes, lora_config
from hub_fusion.weights.names import MismatchError

AdapterMethod = Literal["cat", "average", "svd"]


class FusedLora:
    """A LoRA. `tensors` gives what `shapes` promises, in its order; `cost` is known when they have been made."""

    def __init__(self, members: list[Member], method: AdapterMethod, rank: int | None) -> None:
        self.members, self.method = members, method
        names = sorted({name for m in members for name in m.modules})
        self.modules = {name: [(m, pair) for m in members if (pair := m.pair(name))] for name in names}
        self.rank = rank or max(pair[2] for pairs in self.modules.values() for _, pair in pairs)
        self.lost: dict[str, tuple[float, float]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.patterns: dict[str, Shapes] = {}
        self.stacks: dict[str, int] = {}  # module → how many experts its factors are for; 0: it is no stack
        for name, pairs in self.modules.items():
            rows, columns, rank = self._check(name, pairs)
            scaling = _scaling(pairs[0][0], name, rank) if method == "average" else 1.0
            self.patterns[name] = Shapes(rank, scaling * rank)
            a, b = _factor_names(name, pairs[0][1][0])
            stack = pairs[0][0].experts(name)
            self.stacks[name] = total = stack[0] if stack else 0
            self.shapes |= {
                a: (rank * max(total, 1), *columns),
                b: (rows, rank * max(total, 1), *[1] * (len(columns) - 1)),
            }
        self._check_stacks()
        self.turned = any(m.config.fan_in_fan_out for m in members)

    def _check(self, name: str, pairs: list[tuple[Member, tuple[str, str, int]]]) -> tuple[int, tuple[int, ...], int]:
        """Rows, columns and rank of the result. Raises WeightsError where the adapters do not fit together."""
        first, (a, b, rank) = pairs[0]
        rows, columns = first.files[b].shape[0], first.files[a].shape[1:]
        for member, (other_a, other_b, _) in pairs[1:]:
            theirs = (member.files[other_b].shape[0], member.files[other_a].shape[1:])
            totals = [stack[0] if (stack := m.experts(name)) else 0 for m in (first, member)]
            if totals[0] != totals[1]:
                raise MismatchError("shape_mismatch", f"{name}: {member.key} changes {totals[1]} experts, {first.key} "
                                    f"{totals[0]}: they are of different bases, or their r is wrong")  # fmt: skip
            if theirs != (rows, columns) or other_a.endswith("embedding_A") != a.endswith("embedding_A"):
                raise MismatchError("shape_mismatch", f"{name}: {member.key} changes {theirs}, {first.key} changes "
                                    f"{(rows, columns)}: they are adapters of different bases")  # fmt: skip
        if self.method == "svd":
            return rows, columns, min(self.rank, rows, prod(columns), sum(pair[2] for _, pair in pairs))
        if self.method == "cat":
            rank, most = sum(pair[2] for _, pair in pairs), max(4 * min(rows, prod(columns)), MAX_RANK)
            if rank > most:
                raise MergeError(f"{name}: cat would make rank {rank}, more than the {most} that an adapter may have: "
                                 "use svd")  # fmt: skip
            return rows, columns, rank
        scalings = {(pair[2], _scaling(m, name, pair[2])) for m, pair in pairs}
        if len(pairs) < len(self.members) or len(scalings) > 1:
            raise MergeError(
                f"{name}: average needs the same modules, ranks and scalings in all adapters; {len(pairs)} of "
                f"{len(self.members)} have it, with {sorted(scalings)[:3]}: use cat or svd"
            )
        return rows, columns, rank

    def _check_stacks(self) -> None:
        """PEFT's patterns name parameters, which factors do not: stacks of experts all have one rank and scaling."""
        found = {self.patterns[name] for name, total in self.stacks.items() if total}
        if len(found) > 1:
            ranks = sorted(shapes.rank for shapes in found)
            raise MergeError(f"the experts would have different ranks ({ranks}): use svd with a rank that all can "
                             "have, or fuse into weights with hub-fusion fuse")  # fmt: skip

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """A and B of every module; each factor is read once."""
        for name, members in self.modules.items():
            total, rank = self.stacks[name], self.patterns[name].rank
            parts: list[list[Pair]] = [[] for _ in range(max(total, 1))]
            for member, (a, b, own) in members:
                first, second = read_array(member.files, a), read_array(member.files, b)
                each = unpacked(total, first, second) if total else [(first.reshape(own, -1), second.reshape(-1, own))]
                for pairs, (right, left) in zip(parts, each, strict=True):
                    pairs.append(Pair(right, left, _scaling(member, name, own), member.coefficient))
            fused = [self._fuse(pairs, rank) for pairs in parts]
            self.lost[name] = sum(f.lost for f in fused), sum(f.whole for f in fused)
            whole = packed([(f.a, f.b) for f in fused]) if total else (fused[0].a, fused[0].b)
            for factor, values in zip(_factor_names(name, members[0][1][0]), whole, strict=True):
                yield factor, values.reshape(self.shapes[factor])

    def _fuse(self, pairs: list[Pair], rank: int) -> Fused:
        if self.method == "svd":
            return svd(pairs, rank)
        return cat(pairs) if self.method == "cat" else average(pairs)

    def config(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """PEFT's configuration."""
        stacked = {name for name, total in self.stacks.items() if total}
        modules = {name: pattern for name, pattern in self.patterns.items() if name not in stacked}
        own = {"target_parameters": sorted(self.members[0].config.parameters)} if stacked else {}
        return lora_config(modules, {"fan_in_fan_out": self.turned, **own, **common},
                           next((self.patterns[name] for name in sorted(stacked)), None))  # fmt: skip

    def cost(self) -> tuple[float, tuple[str, float] | None, int, float]:
        """The relative error, the module with the largest, the largest rank, the norm of the exact sum."""
        lost, whole = (sum(values) for values in zip(*self.lost.values(), strict=True))
        name = max(self.lost, key=lambda n: (relative(*self.lost[n]), n))
        worst = relative(*self.lost[name])
        largest = max(pattern.rank for pattern in self.patterns.values())
        return relative(lost, whole), (name, worst) if worst else None, largest, whole**0.5


class FusedIa3:
    """An (IA)³, with what FusedLora has."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.modules = sorted({name for m in members for name in m.modules})
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.feedforward: list[str] = []
        for name in self.modules:
            having = [m for m in members if name in m.modules]
            shapes = {m.files[m.modules[name].factors["ia3_l"]].shape for m in having}
            inputs = {_scales_inputs(m, name) for m in having}
            if len(shapes) > 1 or len(inputs) > 1:
                raise MismatchError(
                    "shape_mismatch",
                    f"{name}: (IA)³ scales {sorted(shapes)} in different adapters, or inputs here and outputs there",
                )
            self.shapes[f"{PREFIX}{name}.ia3_l"] = shapes.pop()
            self.feedforward += [name] * inputs.pop()

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """1 + Σ cᵢ·(lᵢ − 1)."""
        import numpy as np

        for name in self.modules:
            total: Any = 1.0
            for member in self.members:
                if name in member.modules:
                    vector = read_array(member.files, member.modules[name].factors["ia3_l"]).astype(np.float64)
                    total = total + member.coefficient * (vector - 1)
            yield f"{PREFIX}{name}.ia3_l", total

    def config(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """PEFT's configuration."""
        turned = any(m.config.fan_in_fan_out for m in self.members)
        return {"peft_type": "IA3", "target_modules": self.modules, "feedforward_modules": self.feedforward,
                "fan_in_fan_out": turned, "init_ia3_weights": True, **common}  # fmt: skip

    def cost(self) -> tuple[float, None, None, None]:
        """The mean is exact, and its norm a matter of the base's weights."""
        return 0.0, None, None, None


def _scales_inputs(member: Member, name: str) -> bool:
    """Whether the module is one of feedforward_modules: by the vector's shape, or for convolutions by the list."""
    shape = member.files[member.modules[name].factors["ia3_l"]].shape
    if len(shape) == 2 and prod(shape) > 1:
        return shape[0] == 1
    if member.config.feedforward is None:
        raise WeightsError(f"{member.key}: whether (IA)³ scales inputs or outputs of {name[:200]} is unknown, as its "
                           f"feedforward_modules is no list: save {CONFIG} with one")  # fmt: skip
    return any(member.own[name].endswith(end) for end in member.config.feedforward)


def _scaling(member: Member, name: str, rank: int) -> float:
    stack = member.experts(name)
    return stack[2] if stack else member.scaling(name, rank)


def _factor_names(module: str, like: str) -> tuple[str, str]:
    if like.endswith("lora_embedding_A"):
        return f"{PREFIX}{module}.lora_embedding_A", f"{PREFIX}{module}.lora_embedding_B"
    return f"{PREFIX}{module}.lora_A.weight", f"{PREFIX}{module}.lora_B.weight"
