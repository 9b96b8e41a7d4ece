"""What contributors compute beside their weights for Fisher merging and RegMean: ``fusion/statistics.safetensors``.

* ``fisher/NAME``: the diagonal Fisher information of a tensor, in its shape.
* ``activations/NAME``: the Gram matrix G = XᵀX/n of the inputs of a linear layer, (in, in), NAME being its weight.
* ``activations.factor/NAME`` (in, rank) and ``activations.rest/NAME`` (in,) instead: G ≈ F·Fᵀ + diag(rest), which is
  positive semi-definite whatever was rounded.

NAME is the contribution's own name on disk; of an adapter, which has none, the base's. Layers with the same inputs
(queries, keys and values) share one matrix: the metadata ``shared`` maps a name to the one under which it is stored.
Nothing of it is trusted: `check` looks at names and shapes, `faults` at every value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import RepoMissing, WeightsError
from hub_fusion.weights.checkpoint import WRITABLE, Checkpoint, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from hub_fusion.weights.places import Place

STATISTICS = "statistics.safetensors"  # in the folder fusion/ of a contribution
BESIDE = f"fusion/{STATISTICS}"
FACTOR, REST = "activations.factor", "activations.rest"
KINDS = ("fisher", "activations", FACTOR, REST)
TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight", "q_attn.weight")  # Conv1D: stored (in, out)
WITH_CONV1D = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
ASYMMETRY = 1e-3  # of the largest element; what products in other orders differ by is below 1e-6
MAX_RANK = 4096
Whole = Callable[[Checkpoint, str], "np.ndarray"]


class Statistics:
    """The file, opened: headers only."""

    def __init__(self, files: Checkpoint) -> None:
        self.files = files
        self.about = files.metadata[files.files[0]]
        self.shared = read_shared(self.about, str(files.folder))

    @classmethod
    def open(cls, folder: Place) -> Statistics | None:
        """What lies in the folder ``fusion`` beside the weights, if anything. Raises WeightsError."""
        if not isinstance(folder, Path):
            found = folder.statistics()
            return None if found is None else cls(found)
        if not (folder / "fusion" / STATISTICS).is_file():
            return None
        return cls(Checkpoint.open(folder / "fusion", STATISTICS))

    def find(self, kind: str, name: str) -> str | None:
        """The NAME under which the statistics of a contribution's tensor are stored, if they are."""
        return find(self.files, self.shared, kind, name)

    def has(self, kind: str) -> bool:
        """Whether there are any of a kind."""
        return has(self.files, kind)

    def gram(self, name: str, whole: Whole, *, by_trace: bool) -> np.ndarray:
        """The Gram matrix stored under `name`, float32 (in, in), symmetric; if `by_trace`, with a mean diagonal of 1.

        Its diagonal is longer by √in·2⁻²¹ of itself, several times what rounding to float32 can take from the
        smallest eigenvalue: what was positive semi-definite still is.
        """
        import numpy as np

        if f"{FACTOR}/{name}" in self.files:
            factor = whole(self.files, f"{FACTOR}/{name}").astype(np.float64)
            gram = factor @ factor.T
            gram[np.diag_indices(len(gram))] += whole(self.files, f"{REST}/{name}")
        else:
            gram = whole(self.files, f"activations/{name}").astype(np.float64)
            gram = (gram + gram.T) / 2
        mean = float(gram.diagonal().mean()) if len(gram) else 0.0
        if by_trace and mean > 0:
            gram /= mean
        gram[np.diag_indices(len(gram))] *= 1 + len(gram) ** 0.5 * 2.0**-21
        return gram.astype(np.float32)


def has(tensors: Iterable[str], kind: str) -> bool:
    """As `Statistics.has`, from headers."""
    return any(n.startswith((f"{kind}/", f"{kind}.factor/")) for n in tensors)


def find(tensors: Mapping[str, TensorSpec], shared: Mapping[str, str], kind: str, name: str) -> str | None:
    """As `Statistics.find`, from headers."""
    kinds = (kind,) if kind == "fisher" else (kind, f"{kind}.factor")
    names = (name,) if kind == "fisher" else (name, shared.get(name, name))
    return next((n for n in names for k in kinds if f"{k}/{n}" in tensors), None)


def read_shared(about: Mapping[str, str], source: str) -> dict[str, str]:
    """The metadata ``shared``. Raises WeightsError unless it is an object of strings."""
    try:
        shared = json.loads(about.get("shared", "{}"))
    except (ValueError, RecursionError):
        shared = None
    if not isinstance(shared, dict) or not all(isinstance(v, str) for v in shared.values()):
        raise WeightsError(f"{source}: the metadata 'shared' of {STATISTICS} must map names to names")
    return shared


def turned_names(config_text: Callable[[], str], names: Iterable[str]) -> frozenset[str]:
    """Of a base's tensors those of linear layers that are stored (in, out): GPT-2's and its kin's.

    `config_text` gives its config.json.
    """
    try:
        config = json.loads(config_text())
    except (OSError, ValueError, RecursionError, RepoMissing):
        return frozenset()
    if not isinstance(config, dict) or config.get("model_type") not in WITH_CONV1D:
        return frozenset()
    return frozenset(name for name in names if name.endswith(TURNED))


def check(
    tensors: Mapping[str, TensorSpec], shared: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]],
    turned: Iterable[str] = (),
) -> None:  # fmt: skip
    """Whether a file's headers say what they may. `shapes`: a contribution's own names of the base's tensors.

    `turned`: those of them that are stored (in, out). Raises WeightsError naming tensor, shape and what it should be.
    """
    swapped = set(turned)
    for full, spec in tensors.items():
        kind, _, name = full.partition("/")
        if kind not in KINDS or name not in shapes:
            known = "is of a tensor that the base does not have" if kind in KINDS else "is of no kind that is known"
            raise WeightsError(f"the statistics {full[:200]} {known}: compute them again")
        shape = shapes[name]
        columns = (shape[0] if name in swapped else shape[-1]) if len(shape) == 2 else -1
        wanted = {"fisher": shape, "activations": (columns, columns), REST: (columns,)}.get(kind)
        if kind == FACTOR:
            rank = spec.shape[-1] if spec.shape else 0
            wanted = (columns, rank) if 0 < rank <= min(columns, MAX_RANK) else (columns, 1)
        fits = spec.shape == wanted and (columns >= 0 or kind == "fisher")
        if not fits or spec.dtype not in WRITABLE:
            raise WeightsError(f"the statistics {full[:200]} are {spec.dtype} {list(spec.shape)}; {name[:200]} has the "
                               f"shape {list(shape)}: compute them again")  # fmt: skip
        half = {FACTOR: REST, REST: FACTOR}.get(kind)
        if half and f"{half}/{name}" not in tensors:
            raise WeightsError(f"the statistics {full[:200]} need {half}/{name[:200]}: compute them again")
        if half and f"activations/{name}" in tensors:
            raise WeightsError(f"the statistics of {name[:200]} are there whole and in short form: compute them again")
    for name, stored in shared.items():
        same = name in shapes and stored in shapes and len(shapes[name]) == len(shapes[stored]) == 2
        axes = [0 if n in swapped else 1 for n in (name, stored)]
        if not same or shapes[name][axes[0]] != shapes[stored][axes[1]]:
            raise WeightsError(f"the statistics of {name[:200]} cannot be those of {stored[:200]}: other inputs")


def most_bytes(shapes: Iterable[tuple[int, ...]]) -> int:
    """What the statistics of tensors of these shapes can come to: everything, whole, in float32; and the header."""
    return sum(4 * prod(s) + (4 * max(s) ** 2 if len(s) == 2 and max(s) < 32768 else 0) for s in shapes) + 25_000_000


def faults(statistics: Statistics, whole: Whole, kinds: Iterable[str], ridge: float) -> str | None:
    """The first thing in the values that must not be, as a sentence; None if everything is sound.

    `ridge` is RegMean's: what is as good as positive semi-definite with half of it can be merged with all of it.
    """
    import numpy as np

    asked = set(kinds) | ({FACTOR, REST} if "activations" in kinds else set())
    for full in statistics.files:
        kind, _, name = full.partition("/")
        if kind not in asked:
            continue
        values = whole(statistics.files, full)
        if not np.isfinite(values).all():
            return f"{full} holds NaN or infinity"
        if kind in ("fisher", REST) and (values < 0).any():
            return f"{full} is negative somewhere"
        if kind == "fisher" and float(np.abs(values).max(initial=0.0)) > 1e30:
            return f"{full} is larger than squares can be summed"
        if kind == "activations":
            largest = float(np.abs(values).max(initial=0.0))
            if float(np.abs(values - values.T).max(initial=0.0)) > ASYMMETRY * largest:
                return f"{full} is not symmetric, as matrices of inner products are"
            if (values.diagonal() < 0).any():
                return f"{full} has a negative square on its diagonal"
        if kind in ("activations", FACTOR):
            gram = statistics.gram(name, whole, by_trace=True).astype(np.float64)
            if not np.isfinite(gram).all():
                return f"{full} is larger than squares can be summed"
            if not gram.diagonal().any():
                return f"{full} is zero: no input arrived"
            gram[np.diag_indices(len(gram))] += ridge / 2
            try:
                np.linalg.cholesky(gram)
            except np.linalg.LinAlgError:
                return f"{full} is not positive semi-definite, as matrices of inner products are"
    return None
