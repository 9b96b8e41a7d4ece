"""What contributors must bring beside their weights where the recipe's method asks for statistics, and what is checked.

From headers: size, names, shapes, dtypes, and that they are of these weights. From the values: finite, Fisher
information not negative, Gram matrices symmetric and positive semi-definite: one that is not would end the whole round.
Not covered: statistics that are well made and false. What they can win is bounded by how the engine normalises them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HeaderError, WeightsError
from hub_fusion.merge import find_method
from hub_fusion.merge.method import STATISTICS
from hub_fusion.records import Contribution, Refusal, weights_identity
from hub_fusion.weights.checkpoint import TensorSpec, file_sha256, read_header
from hub_fusion.weights.remote import read_headers
from hub_fusion.weights.statistics import BESIDE, Statistics, check, faults, has, most_bytes, read_shared, turned_names

if TYPE_CHECKING:
    from hub_fusion.hub import FileInfo, Hub
    from hub_fusion.recipe import Recipe

AGAIN = "Compute them (hub-fusion statistics MODEL --task FOLDER --kind {kind}), then contribute with --statistics."
WORDS = {"activations": "gram", "fisher": "fisher"}


@dataclass(frozen=True)
class Brought:
    """A file of statistics, not yet read: its bytes, how to read its header, and the weights it lies beside."""

    size: int
    read: Callable[[], tuple[Mapping[str, TensorSpec], Mapping[str, str]]]
    weights_sha256: str | None  # as records.weights_identity, where the digests are known

    @classmethod
    def on_hub(cls, hub: Hub, c: Contribution, files: dict[str, FileInfo]) -> Brought | None:
        """That of a contribution, if there is one."""
        if BESIDE not in files:
            return None
        digests = [f.sha256 for n, f in files.items() if "/" not in n and n.endswith(".safetensors")]
        known = [d for d in digests if d]

        def read() -> tuple[Mapping[str, TensorSpec], Mapping[str, str]]:
            about: dict[str, dict[str, str]] = {}
            return read_headers(hub, c.repo, c.sha, [BESIDE], files, about), about[BESIDE]

        return cls(files[BESIDE].size, read, weights_identity(known) if len(known) == len(digests) else None)

    @classmethod
    def in_folder(cls, folder: Path) -> Brought | None:
        """That in a folder which is to be published, if there is one."""
        file = folder / BESIDE
        if not file.is_file():
            return None
        digest = weights_identity(file_sha256(path) for path in sorted(folder.glob("*.safetensors")))
        return cls(file.stat().st_size, lambda: read_header(file), digest)


@dataclass(frozen=True)
class Wanted:
    """What a recipe's method asks for. `turned`: the base's names of linear layers that are stored (in, out)."""

    kinds: tuple[str, ...]
    ridge: float
    required: bool
    turned: Callable[[], frozenset[str]]

    @classmethod
    def of(cls, recipe: Recipe, config_text: Callable[[], str], names: Mapping[str, TensorSpec]) -> Wanted | None:
        """None where the method asks for no statistics."""
        formula = find_method(recipe.merge.method).bind(recipe.merge.options)
        kinds = tuple(sorted(formula.method.inputs & STATISTICS))
        if not kinds:
            return None
        settings = formula.settings
        return cls(kinds, float(settings.get("ridge", 1e-6)), settings.get("missing") != "pool",
                   lambda: turned_names(config_text, names) if "activations" in kinds else frozenset())  # fmt: skip

    @property
    def fix(self) -> str:
        """What an author can do."""
        return AGAIN.format(kind=WORDS[self.kinds[0]] if len(self.kinds) == 1 else "both")


def check_brought(
    c: Contribution, wanted: Wanted, brought: Brought | None, base: Mapping[str, TensorSpec],
    own: Mapping[str, TensorSpec], names: Mapping[str, str],
) -> Refusal | None:  # fmt: skip
    """Why what a contribution brought does not pass, if it does not, by its headers.

    `own` are the contribution's tensors, `names` tells which of them are the base's (of an adapter none).
    """
    if brought is None:
        return _missing(c, wanted, "It brings no statistics") if wanted.required else None
    shapes = {n: s.shape for n, s in (base if c.relation == "adapter" else own).items()}
    most = most_bytes(shapes.values())
    if brought.size > most:
        reason = f"Its statistics have {brought.size} bytes; for this base {most} are allowed."
        return c.refuse("screen", "statistics_too_large", reason, wanted.fix)
    try:
        tensors, about = brought.read()
    except HeaderError as error:
        return c.refuse("screen", "malformed_statistics", f"{error}.", wanted.fix)
    try:
        check(tensors, read_shared(about, c.repo), shapes, {names.get(n, n) for n in wanted.turned()})
        _check_about(about)
    except WeightsError as error:
        return c.refuse("screen", "statistics_mismatch", f"{error}.", wanted.fix)
    told = about.get("weights_sha256")
    if told is not None and brought.weights_sha256 not in (None, told):
        reason = "Its statistics are of other weights than it holds now."
        return c.refuse("screen", "statistics_stale", reason, wanted.fix)
    lacking = [kind for kind in wanted.kinds if not has(tensors, kind)]
    if lacking and wanted.required:
        return _missing(c, wanted, f"Its statistics have no {' and no '.join(WORDS[k] for k in lacking)} part")
    return None


def check_values(c: Contribution, folder: Path, wanted: Wanted) -> Refusal | None:
    """Why the values of what was fetched do not pass, if they do not. Reads all of them once."""
    from hub_fusion.weights.reading import Reader

    found = Statistics.open(folder)
    fault = faults(found, Reader().whole, wanted.kinds, wanted.ridge) if found else None
    return c.refuse("screen", "statistics_invalid", f"{fault}.", wanted.fix) if fault else None


def _missing(c: Contribution, wanted: Wanted, reason: str) -> Refusal:
    return c.refuse("screen", "statistics_missing", f"{reason}, and this base fuses by a method that needs them.",
                    wanted.fix)  # fmt: skip


def _check_about(about: Mapping[str, str]) -> None:
    """Raises WeightsError unless the metadata says from how much it was computed."""
    for key in ("examples", "tokens"):
        value = about.get(key, "")
        if not (value.isascii() and value.isdigit() and 0 < len(value) < 16 and int(value) > 0):
            raise WeightsError(
                f"the metadata of its statistics must say {key} as a positive number, not {value[:40]!r}"
            )
