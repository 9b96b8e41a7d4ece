"""The recipe: everything that decides a generation, in one YAML file.

`Recipe.load` reads it, `Recipe.template` is the commented file that ``hub-fusion init`` writes. An unknown key is an
error that names the nearest known one. Precedence: flags, then environment (``HUB_FUSION_ROUND__MIN_CONTRIBUTIONS=3``),
then the file, then the defaults below. What is not here: credentials and the Hub's address, which belong to whoever
runs the recipe, not to the recipe.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from hub_fusion.errors import RecipeError

ENVIRONMENT_PREFIX = "HUB_FUSION_"
PERMISSIVE = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "cc0-1.0", "cc-by-2.0",
    "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "unlicense", "wtfpl", "zlib", "odc-by", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "ms-pl", "postgresql", "ncsa", "artistic-2.0", "afl-3.0", "ecl-2.0",
)  # fmt: skip

Pooling = Literal["mean", "cls", "last"]
WHY_NOT_KEEP = (
    "a loop cannot keep rows of tokens that the base lacks: contributions to earlier generations would have fewer rows "
    "than the base; hub-fusion fuse --vocab keep makes a new base with them, or leave it at drop"
)


class Section(BaseModel):
    """A part of the recipe; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Contributions(Section):
    """Whose work may enter."""

    include: tuple[str, ...] = Field((), description="repositories to consider although no listing names them")
    consent: Literal["tag", "license"] = Field(
        "tag", description="tag: only what is tagged hub-fusion; license: everything whose licence allows it"
    )
    licenses: tuple[str, ...] = Field(PERMISSIVE, description="licences that may be fused")
    own: bool = Field(False, description="take repositories of the base's own account")
    private: bool = Field(False, description="take private repositories that the token can read")
    gated: bool = Field(False, description="take gated repositories that the token can read")
    block: tuple[str, ...] = Field((), description="accounts or repositories never to take")


class Round(Section):
    """When a fuse is due and what enters it."""

    min_contributions: int = Field(5, ge=1)
    max_contributions: int = Field(32, ge=1)
    max_wait: timedelta = Field(timedelta(days=7), description="after this wait of the oldest, two are enough")
    choose: Literal["newest", "oldest", "diverse", "all"] = "diverse"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_contributions > self.max_contributions:
            raise ValueError(f"min_contributions {self.min_contributions} > max_contributions {self.max_contributions}")
        return self


class Screen(Section):
    """What the weights must pass; norms are those of the task vectors, compared with the round's median."""

    cap_mad: float = Field(3.0, ge=0, description="cap norms above median + cap_mad·MAD …")
    cap_ratio: float = Field(1.5, ge=1, description="… but never below cap_ratio·median")
    refuse_ratio: float = Field(10.0, ge=1, description="refuse norms above refuse_ratio·median")
    min_for_norms: int = Field(5, ge=2, description="neither with fewer contributions than this")
    spool_bytes: int = Field(200 * 10**9, ge=1, description="disk space for downloaded contributions")


class Merge(Section):
    """The formula."""

    method: str = "mean"
    options: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(0, description="of methods with randomness")
    vote: Literal["account", "contribution"] = Field("account", description="who has one vote")
    cap: bool = Field(True, description="cap norms before the method")
    heads: Literal["drop", "keep"] = Field("drop", description="task heads: leave them out, or keep the base's")
    vocab: Literal["drop"] = Field("drop", description="rows of tokens that the base lacks: left out")
    residual: bool = Field(False, description="keep what rounding to 16 bits lost; the next generation starts from it")
    steps: tuple[float, ...] = Field((1.0, 0.5, 0.25), description="parts of the way to try, in this order")

    @field_validator("vocab", mode="before")
    @classmethod
    def _vocab(cls, vocab: object) -> object:
        if vocab == "keep":
            raise ValueError(WHY_NOT_KEEP)
        return vocab

    @field_validator("steps")
    @classmethod
    def _steps(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if not steps or any(not 0 < s <= 1 for s in steps):
            raise ValueError("steps are numbers in (0, 1], at least one")
        return steps


class Task(Section):
    """A held-out task: a folder with train, gate and report parts (see evaluate/tasks.py)."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    path: Path = Field(description="relative to the recipe's folder")
    role: Literal["gate", "report", "seen"] | None = Field(
        None, description="gate: decides; report: never does; seen: a contributor trained on it; null: gate and report"
    )
    _root: Path = PrivateAttr(Path())  # not published: it is a path of the maintainer's machine

    @property
    def folder(self) -> Path:
        """Where the task is on this machine."""
        return self._root / self.path

    def below(self, root: Path) -> Task:
        """The same task with `root` as what its path is relative to."""
        task = self.model_copy()
        task._root = root
        return task


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


class Evaluate(Section):
    """How a checkpoint is judged as a base."""

    tasks: tuple[Task, ...] = ()
    probe: Probe | None = Probe()
    fewshot: FewShot | None = FewShot()
    finetune: Finetune | None = None
    logme: LogME | None = None
    perplexity: Perplexity | None = Perplexity()
    seeds: int = Field(5, ge=1)
    max_test_examples: int = Field(1000, ge=10)
    max_length: int = Field(128, ge=8, description="tokens")


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


class Search(Section):
    """How the candidate is chosen, by gate tasks alone. Everything that is measured counts, but for the parent."""

    evaluations: int = Field(8, ge=1, description="measurements at most; one is always made")
    seconds: float | None = Field(None, gt=0, description="no further measurement after so many seconds of measuring")
    steps: Literal["best", "first"] = Field(
        "best", description="of merge.steps: the best that the gate accepts, or the first"
    )
    contributions: Literal["all", "leave-one-out", "greedy-soup"] = Field(
        "all", description="leave-one-out: without those that certainly made it worse; greedy-soup: see evaluate/soup"
    )
    control: Literal["off", "cheapest", "all"] = Field(
        "cheapest", description="a random step of equal length, measured by the cheapest protocol or by all"
    )


class Publish(Section):
    """Where a generation goes."""

    license: str | None = Field(None, description="the base's licence; default: as its card says")
    keep_formats: bool = Field(False, description="leave .bin, .h5 and other stale weight files beside the new weights")
    kind: Literal["weights", "adapter"] = Field(
        "weights", description="adapter: the base's weights stay frozen, and a generation is a LoRA adapter of them"
    )
    rank: int = Field(16, ge=1, le=1024, description="of a generation that is an adapter")


class Heads(Probe):
    """Small heads for tasks that the base was grown from: logistic regression on the frozen body, under heads/TASK."""

    kind: Literal["none", "refit", "keep"] = Field(
        "none", description="refit: fit them for every generation, remove those of other tasks; keep: the same, but "
        "those of other tasks stay, bound to the generation they were fitted on; none: fit none, remove all"
    )  # fmt: skip
    tasks: tuple[str, ...] = Field((), description="names of evaluate.tasks with the role seen; empty: all of these")


class Archive(Section):
    """What of the contributions is kept, so that a generation can be fused again when their authors deleted them."""

    keep: Literal["none", "adapters", "all"] = "none"
    repo: str | None = Field(
        None, pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$", description="where; default: the base's name with -archive"
    )
    private: bool = Field(True, description="whether the archive is private when it is made")


class Recipe(Section):
    """The whole file."""

    base: str = Field(pattern=r"^[\w.-]{1,96}/[\w.-]{1,96}$", description="the repository being improved")
    root: str | None = Field(None, description="where the base's weights came from, for the card")
    aliases: tuple[str, ...] = Field((), description="mirrors of the base that people also train from")
    contributions: Contributions = Contributions()
    round: Round = Round()
    screen: Screen = Screen()
    merge: Merge = Merge()
    evaluate: Evaluate = Evaluate()
    search: Search = Search()
    gate: Gate = Gate()
    publish: Publish = Publish()
    heads: Heads = Heads()
    archive: Archive = Archive()
    poll_seconds: float = Field(300.0, gt=0, description="pause between two looks at the Hub")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.archive.repo is not None and self.archive.repo.lower() == self.base.lower():
            raise ValueError(f"archive.repo is the base itself, {self.base}: name another repository")
        return self

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.heads.kind == "none":
            return self
        seen = [task.name for task in self.evaluate.tasks if task.role == "seen"]
        if unknown := [name for name in self.heads.tasks if name not in seen]:
            there = f"there are {', '.join(seen)}" if seen else "there are none"
            raise ValueError(f"heads.tasks names {', '.join(unknown)}, no evaluate.tasks with role: seen; {there}")
        if self.heads.kind == "refit" and not seen:
            raise ValueError("heads.kind is refit, but no task in evaluate.tasks has role: seen; add one")
        if dots := [task.name for task in self.head_tasks if not task.name.strip(".")]:
            raise ValueError(f"the task {dots[0]!r} cannot have a head: heads/{dots[0]} is no folder's name; rename it")
        if self.publish.kind == "adapter":
            raise ValueError(
                "heads are fitted on a whole generation, and publish.kind is adapter: set heads.kind: none"
            )
        return self

    @property
    def head_tasks(self) -> tuple[Task, ...]:
        """The tasks for which every generation gets a head."""
        if self.heads.kind == "none":
            return ()
        seen = (task for task in self.evaluate.tasks if task.role == "seen")
        return tuple(task for task in seen if not self.heads.tasks or task.name in self.heads.tasks)

    @classmethod
    def from_text(
        cls, text: str, *, source: str = "recipe", overrides: Mapping[str, Any] | None = None, environment: bool = False
    ) -> Self:
        """Parse YAML. `overrides` maps dotted keys to values and wins over everything. Raises RecipeError."""
        data = parse_yaml(text, source) or {}
        if not isinstance(data, dict):
            raise RecipeError(f"{source} must be a mapping of keys to values, not {type(data).__name__}")
        for key, value in (_environment() if environment else {}).items():
            _set(data, key, value, source=f"environment variable {ENVIRONMENT_PREFIX}…")
        for key, value in (overrides or {}).items():
            _set(data, key, value, source="flag")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RecipeError(f"{source}: " + "; ".join(explain(e, cls) for e in error.errors())) from None

    @classmethod
    def load(cls, path: Path, *, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a recipe file; relative task paths are relative to it. Raises RecipeError."""
        try:
            text = path.read_text()
        except OSError as error:
            raise RecipeError(f"cannot read {path}: {error.strerror}; hub-fusion init writes a recipe") from None
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path} is not UTF-8: {error}") from None
        recipe = cls.from_text(text, source=str(path), overrides=overrides, environment=True)
        tasks = tuple(task.below(path.parent) for task in recipe.evaluate.tasks)
        return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"tasks": tasks})})

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as YAML that `from_text` reads back to an equal recipe."""
        data = self.model_dump(mode="json")
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        if yaml.safe_load(text) == data:
            return text
        return yaml.safe_dump(data, sort_keys=False)  # PyYAML writes U+0085 so that it reads back as a space

    def decisive(self) -> str:
        """Canonical JSON of what decides the weights and the verdict (not: when, where to, how often)."""
        keep = self.model_dump(mode="json", include={"base", "contributions", "screen", "merge", "search", "gate"})
        keep["contributions"].pop("include")
        keep["screen"].pop("spool_bytes")
        keep["search"].pop("control")
        keep["merge"].pop("vocab")  # has no second value
        keep["merge"].pop("residual")  # decides the weights of the next generation, through the base
        if self.publish.kind == "adapter":
            keep["publish"] = {"kind": self.publish.kind, "rank": self.publish.rank}
        return json.dumps(keep, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def template(base: str, root: str | None = None) -> str:
        """A commented recipe with the defaults that people change."""
        return TEMPLATE.format(base=base, root=root or "null")


def _environment() -> dict[str, Any]:
    """``HUB_FUSION_ROUND__CHOOSE=all`` → ``{"round.choose": "all"}``; only names of recipe keys count."""
    found = {}
    for name, value in os.environ.items():
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
        if name.startswith(ENVIRONMENT_PREFIX) and key.partition(".")[0] in Recipe.model_fields:
            found[key] = parse_yaml(value, f"environment variable {name}")
    return found


def parse_yaml(text: str, source: str) -> Any:
    """What the YAML says; RecipeError if it says nothing. PyYAML's number and date constructors raise bare errors."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise RecipeError(f"{source} is not YAML: {error}") from None


def _set(data: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise RecipeError(f"{source}: {key}: {parent} is not a section")
    data[last] = value


def explain(error: Mapping[str, Any], model: type[Section]) -> str:
    """One pydantic error of `model` as a sentence; for an unknown key, with the nearest known one."""
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']} (given: {error.get('input')!r})"[:400]
    known = _known_keys(location[:-1], model)
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return f"unknown key {where!r}{hint}"


def _known_keys(location: list[str], model: type[Section]) -> list[str]:
    section: Any = model
    for part in location:
        if part.isdigit():
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, Section))
    return list(section.model_fields)


TEMPLATE = """\
# A hub_fusion recipe: everything that decides a generation. Run it with: hub-fusion run --recipe THIS_FILE
base: {base}            # the repository being improved; generations are its tags gen-1, gen-2, …
root: {root}            # where its first weights came from (for the card)
aliases: []             # mirrors of the base that people also train from

contributions:
  consent: tag          # tag: only what is tagged hub-fusion; license: everything the licences below allow
  licenses: [apache-2.0, mit, bsd-3-clause, cc-by-4.0, cc0-1.0]
  include: []           # repositories to consider although no listing names them
  own: false            # take repositories of the base's own account

round:
  min_contributions: 5  # a fuse is due when so many are ready …
  max_wait: P7D         # … or when the oldest has waited this long and there are two
  max_contributions: 32
  choose: diverse       # diverse (of every account in turn) | newest | oldest | all

merge:
  method: mean          # hub-fusion methods lists them
  steps: [1.0, 0.5, 0.25]

evaluate:               # is it a better base? Held-out tasks that no contributor trains on
  tasks: []             # - {{name: my-task, path: tasks/my-task}}
  seeds: 5
  fewshot: {{examples: 100, epochs: 20, learning_rate: 5.0e-05}}
  probe: {{examples: 1000}}
  finetune: null        # {{}}: with all training examples and early stopping; hours where few-shot takes minutes
  logme: null           # {{}}: how well a linear model explains the labels; told, decides nothing

search:
  evaluations: 8        # measurements of a round at most: of steps, of contributions left out, of a random control
  contributions: all    # leave-one-out | greedy-soup: drop those that make it worse (costs measurements)

gate:
  epsilon: 0.02         # the mean over the gate tasks may fall by so much, if that may be noise; a certain loss never
  delta: 0.05           # no gate task may certainly have lost more

heads:
  kind: none            # refit: publish small heads for the tasks with role: seen, to use a generation on them

archive:
  keep: none            # adapters | all: keep copies, so that generations can be made again when contributors delete
"""
