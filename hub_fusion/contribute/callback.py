"""A callback for transformers' Trainer: what it pushes becomes a contribution, with nothing else to do.

Trainer writes its own card at every push, so the facts travel in what it takes over into that card: the model's tags
and the name of the model it was trained from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from hub_fusion.contribute.metadata import contribution_tags
from hub_fusion.contribute.statistics import Settings
from hub_fusion.hub import Hub


class ContributeCallback(TrainerCallback):
    """Mark what a Trainer pushes as a contribution to `base`.

    Args:
        base: repository of the base, for example ``acme/roberta-fused``.
        revision: what the training started from: ``gen-6``, a sha, or main. Resolved to a sha once, here.
        hub: which Hub; default: the client's.
        statistics: what to compute at the end of the training for bases that fuse by Fisher merging or RegMean, for
            example ``Settings("gram", rank=64)``, from the first `examples` of the training data. It is saved, and
            pushed, beside the model as ``fusion/statistics.safetensors``.

    Example:
        >>> trainer.add_callback(ContributeCallback("acme/roberta-fused", revision="gen-6"))
        >>> trainer.train()
        >>> trainer.push_to_hub()

    Raises HubError if the revision is not there or the Hub does not answer.
    """

    def __init__(
        self, base: str, revision: str = "main", *, hub: Hub | None = None, statistics: Settings | None = None,
        examples: int = 256,
    ) -> None:  # fmt: skip
        self.base, self.statistics, self.examples = base, statistics, examples
        self.hub = hub or Hub()
        self.base_revision = self.hub.resolve(base, revision)
        if statistics:
            statistics.check()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Mark the model before checkpoints are pushed during the training."""
        self._mark(model)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Compute statistics, if they are asked for, of the model as it is saved now."""
        if self.statistics and state.is_world_process_zero:
            from hub_fusion.contribute.trained import save_statistics

            self._mark(model)
            save_statistics(self, Path(args.output_dir), model, train_dataloader)

    def on_push_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Mark the model before Trainer writes its card."""
        self._mark(model)

    def _mark(self, model: Any) -> None:
        tags = [t for t in getattr(model, "model_tags", None) or [] if t not in contribution_tags(self.base_revision)]
        model.model_tags = [*tags, *contribution_tags(self.base_revision)]
        model.config._name_or_path = self.base  # a local path here would leave the card without base_model
