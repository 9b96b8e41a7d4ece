"""How a checkpoint is judged as a base: tasks, protocols, and the gate."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from hub_fusion.recipe.canaries import Canary
from hub_fusion.recipe.section import Section
from hub_fusion.recipe.tasks import Task

Pooling = Literal["mean", "cls", "last"]


class Probe(Section):
    """Linear probe: logistic regression on the frozen body's features."""

    examples: int = Field(1000, ge=2, description="training examples")
    pooling: Pooling = Field(
        "mean", description="which vector stands for a text: the mean of its tokens, its first (cls) or its last"
    )


class LogME(Probe):
    """LogME: the log evidence of a linear model on the frozen body's features."""


class Perplexity(Section):
    """Log-likelihood per token of language models on tasks of plain text (and on no others)."""

    window: int = Field(256, ge=2, description="tokens")
    windows: int = Field(1000, ge=1, description="at most, of each part")
    mask: float = Field(0.15, gt=0, lt=1, description="share of the tokens that masked language models predict")


class EarlyStopping(Section):
    """When training ends: accuracy on a part of the training examples no longer rises; the best look counts."""

    share: float = Field(0.1, gt=0, lt=1, description="of the training examples, split off by the seed …")
    at_most: int = Field(1000, ge=1, description="… and no more than this")
    every: int | None = Field(None, ge=1, description="examples between two looks; null: all, an epoch")
    patience: int = Field(3, ge=1, description="looks in a row that gain less than min_gain")
    min_gain: float = Field(0.001, ge=0, le=1)


class Training(Section):
    """How a whole model is finetuned: AdamW, the learning rate falling linearly to 0."""

    examples: int = Field(100, ge=2)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast, about twice as fast where it is built in"
    )
    stop: EarlyStopping | None = Field(None, description="null: train to the end")


class FewShot(Training):
    """Finetuning of the whole model with few examples."""


class Finetune(Training):
    """Finetuning of the whole model with all training examples."""

    examples: int = Field(10_000, ge=2, description="at most, drawn by the seed")
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    stop: EarlyStopping | None = EarlyStopping()
    seeds: int | None = Field(None, ge=1, description="null: as many as evaluate.seeds")


class Interpolation(Section):
    """The line from the parent to the candidate, walked for people to look at; it decides nothing."""

    points: int = Field(5, ge=3, le=101, description="evenly spaced, both ends among them; each is a measurement")


class Evaluate(Section):
    """How a checkpoint is judged as a base."""

    tasks: tuple[Task, ...] = ()
    probe: Probe | None = Probe()
    fewshot: FewShot | None = FewShot()
    finetune: Finetune | None = None
    logme: LogME | None = None
    perplexity: Perplexity | None = Perplexity()
    interpolation: Interpolation | None = None
    canaries: tuple[Canary, ...] = Field((), description="inputs whose behaviour must not change: docs/security.md")
    seeds: int = Field(5, ge=1)
    max_test_examples: int = Field(1000, ge=10)
    max_length: int = Field(128, ge=8, description="tokens")
    contamination: Literal["flag", "refuse"] = Field(
        "flag", description="of contributions that name a held-out task's data: tell, or refuse them"
    )

    @model_validator(mode="after")
    def _canaries_have_tasks(self) -> Self:
        names, tasks = [c.name for c in self.canaries], [t.name for t in self.tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"every canary has its own name, given twice: {', '.join(twice)}")
        if unknown := sorted({c.task for c in self.canaries if c.task and c.task not in tasks}):
            raise ValueError(f"canaries name {', '.join(unknown)}, no evaluate.tasks; there are {', '.join(tasks)}")
        return self


class Gate(Section):
    """When a candidate is published: evaluate/gate.py says the rules.

    Margins are in accuracy (0.02 is two points); of likelihoods, in nats.
    """

    epsilon: float = Field(0.02, ge=0, description="allowed loss against the parent")
    epsilon_best: float | None = Field(None, ge=0, description="allowed loss against the best generation; default 2ε")
    epsilon_root: float | None = Field(None, ge=0, description="allowed loss against gen-0; default ε")
    delta: float | None = Field(0.05, ge=0, description="allowed loss on any one gate task; null: any")
    test: Literal["means", "significance", "noninferiority"] = Field(
        "significance",
        description="significance: losses within the margins, and none that is certain; noninferiority: certainly "
        "within the margins; means: within the margins, whatever the noise",
    )
    protocols: tuple[Literal["probe", "fewshot", "finetune", "logme", "perplexity"], ...] = Field(
        (), description="what decides; empty: all accuracies that were measured"
    )
    require_tasks: bool = Field(True, description="refuse to publish what was not measured")

    @field_validator("protocols")
    @classmethod
    def _one_unit(cls, protocols: tuple[str, ...]) -> tuple[str, ...]:
        apart = {p for p in protocols if p in ("logme", "perplexity")}
        if apart and (set(protocols) - apart or len(apart) > 1):
            raise ValueError(f"{', '.join(sorted(apart))} has no common mean with others; let it decide alone")
        return protocols
