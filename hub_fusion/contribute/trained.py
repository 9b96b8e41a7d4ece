"""Statistics at the end of a training: of the model that is in memory, on the data that it was trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_fusion.contribute.open_model import Opened, plain_names
from hub_fusion.contribute.statistics import Collected, write_statistics
from hub_fusion.records import weights_identity
from hub_fusion.weights.checkpoint import SINGLE, Checkpoint, file_sha256
from hub_fusion.weights.remote import ADAPTER, read_headers, weight_files

if TYPE_CHECKING:
    from hub_fusion.contribute.callback import ContributeCallback
    from hub_fusion.contribute.gram import Batch

ANSWERS = ("labels", "label", "label_ids")  # of a batch; the statistics do not use them


def save_statistics(callback: ContributeCallback, out: Path, model: Any, loader: Iterable[Any]) -> Collected:
    """Save the model to `out`, as Trainer will, and its statistics beside it. Raises HubFusionError."""
    assert callback.statistics is not None
    model.save_pretrained(out)
    digest = weights_identity(file_sha256(path) for path in sorted(out.glob("*.safetensors")))
    training = model.training
    whole = model
    disk: Iterable[str]
    if (out / ADAPTER).is_file() and hasattr(model, "merge_and_unload"):
        whole = copy.deepcopy(model).merge_and_unload()
        hub, sha = callback.hub, callback.base_revision
        sizes = hub.files(callback.base, sha)
        disk = read_headers(hub, callback.base, sha, weight_files(hub, callback.base, sha, sizes), sizes)
    else:
        disk = Checkpoint.open(out, SINGLE)
    device = next(whole.parameters()).device
    kept = list(_first(loader, callback.examples))
    count = sum(len(next(iter(batch.values()))) for batch in kept)

    def batches() -> Iterator[Batch]:
        return ({name: values.to(device) for name, values in batch.items()} for batch in kept)

    opened = Opened(whole.eval(), plain_names(whole, disk), out, digest)
    try:
        return write_statistics(opened, batches, count, callback.statistics, out)
    finally:
        model.train(training)


def _first(loader: Iterable[Any], examples: int) -> Iterator[Batch]:
    """As many examples of a data loader's batches, on the CPU, without their labels."""
    left = examples
    for batch in islice(loader, examples):
        cut = {name: values[:left].cpu() for name, values in batch.items() if name not in ANSWERS}
        left -= len(next(iter(cut.values())))
        yield cut
        if left <= 0:
            return
