"""Would this contribution be accepted? The watcher's own rules, on metadata and headers alone, without torch.

For a repository on the Hub, or for a local folder before it is uploaded. Reads kilobytes. Not covered: what only the
tensors tell (NaN, copies, norms); without torch also adapters of models whose names in memory are not those on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hub_fusion.contributions.added import judge_tokenizer, most_bytes
from hub_fusion.contributions.brought import Brought, Wanted, check_brought
from hub_fusion.contributions.discover import from_model_info
from hub_fusion.contributions.filters import RULES, Circumstances
from hub_fusion.contributions.licenses import rule_on
from hub_fusion.contributions.screen import check_headers, misfit
from hub_fusion.errors import HeaderError, HubFusionError, RepoMissing, WeightsError
from hub_fusion.hub import Hub
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Refusal
from hub_fusion.weights.adapter import MemoryNames, plan_adapter, read_lora_config
from hub_fusion.weights.adapter_members import check_member
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
from hub_fusion.weights.names import MismatchError, match_names, memory_names
from hub_fusion.weights.remote import ADAPTER, checkpoint_headers
from hub_fusion.weights.tokens import MOST_BYTES, TOKENIZER, Tokenizer
from hub_fusion.weights.vocabulary import with_rows_of

NO_SHA = "0" * 40
HAS_MODELS = all(find_spec(name) is not None for name in ("torch", "transformers"))


@dataclass(frozen=True)
class Check:
    """The answer: every refusal that applies (the watcher would give the first), none if it would be accepted."""

    repo: str
    base: str
    accepted: bool
    passed: tuple[str, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()  # what could not be checked here
    license: str | None = None  # what its card declares, and the one that binds it through its base
    effective_license: str | None = None


def check_contribution(target: str, *, hub: Hub, base: str | None = None, recipe: Recipe | None = None) -> Check:
    """Check a repository (``user/model`` or ``user/model@revision``) or a local folder.

    `base` defaults to what the card declares, `recipe` to the one that the base publishes, else to the defaults.
    Raises HubFusionError where that leaves the question open (no such repository, no base named).
    """
    folder = Path(target)
    contribution = _local(folder) if folder.is_dir() else _remote(target, hub)
    base = base or (recipe.base if recipe else contribution.base)
    if not base:
        raise HubFusionError(f"{target} declares no single base_model: say which base you mean with --base")
    recipe = recipe or published_recipe(hub, base)
    rules = [rule for rule in RULES if rule.__name__ != "already_fused"]  # only the base's records know, not its rules
    at = Circumstances.of(hub, recipe)
    found = {rule.__name__: rule(contribution, at) for rule in rules}
    refusals = [refusal for refusal in found.values() if refusal]
    notes = [
        f"not part of the effective licence, since nothing is known of it: that of {gap}" for gap in at.license.gaps
    ]
    passed = [name for name, refusal in found.items() if not refusal]
    if "no_safetensors" in passed:
        headers, memory = base_headers(hub, base), base_memory_names(hub, base)
        frozen = recipe.publish.kind == "adapter"
        wanted = Wanted.of(recipe, lambda: hub.read_text(base, "config.json"), headers)
        if folder.is_dir():
            problem = _local_headers(folder, contribution, headers, memory, frozen, wanted)
        else:
            problem = check_headers(hub, contribution, headers, memory, frozen=frozen, wanted=wanted)[1]
        if (
            problem
            and problem.code == "architecture_mismatch"
            and contribution.relation == "adapter"
            and not HAS_MODELS
        ):
            notes.append(f"not decided without torch and transformers: {problem.reason}")
        elif problem:
            refusals.append(problem)
        else:
            passed.append("headers")
            problem = _judge_tokens(contribution, folder, hub, base) if recipe.merge.vocab == "keep" else None
            refusals += [problem] if problem else []
    declared = contribution.license
    bound = rule_on(declared, at.license, recipe.contributions).effective
    return Check(contribution.repo, base, not refusals, tuple(passed), tuple(refusals), tuple(notes), declared, bound)


def _judge_tokens(c: Contribution, folder: Path, hub: Hub, base: str) -> Refusal | None:
    """What the screen would say of the tokens that it adds to the generation that its card names, or to the newest."""
    at = c.base_revision or "main"
    if TOKENIZER not in c.files or c.relation != "finetune":
        return None
    try:
        origin = hub.read_text(base, TOKENIZER, revision=at, max_bytes=MOST_BYTES)
    except RepoMissing:
        return None  # the screen says so of the base, or of the revision
    most = most_bytes(len(origin.encode()))
    if not folder.is_dir():
        text = hub.read_text(c.repo, TOKENIZER, revision=c.sha, max_bytes=most)
    elif (folder / TOKENIZER).stat().st_size <= most:
        text = (folder / TOKENIZER).read_text(encoding="utf-8", errors="replace")
    else:
        text = ""
    return judge_tokenizer(c, text, Tokenizer.parse(origin, f"{base}/{TOKENIZER}"))[1]


def published_recipe(hub: Hub, base: str) -> Recipe:
    """The recipe of the base's newest generation, or the defaults."""
    try:
        return Recipe.from_text(hub.read_text(base, "fusion/recipe.yaml"), source=f"{base}/fusion/recipe.yaml")
    except RepoMissing:
        return Recipe(base=base)


def base_headers(hub: Hub, base: str) -> dict[str, TensorSpec]:
    """Names, shapes and dtypes of the base's newest tensors, with no more tokens than the root has; from headers."""
    newest, root = checkpoint_headers(hub, base, hub.resolve(base)), hub.tags(base).get("gen-0")
    return with_rows_of(newest, checkpoint_headers(hub, base, root)) if root else newest


def base_memory_names(hub: Hub, base: str) -> MemoryNames:
    """How the base's tensors are called in memory, for adapters; asks transformers, with its configuration alone.

    Where torch is not installed the names on disk are taken for those in memory: true for most architectures.
    """

    def names() -> Mapping[str, list[str]]:
        headers = base_headers(hub, base)
        if not HAS_MODELS:
            return {name: [name] for name in headers}
        return memory_names(hub.snapshot(base, hub.resolve(base), ["config.json"]), headers)

    return names


def _remote(target: str, hub: Hub) -> Contribution:
    repo, _, revision = target.partition("@")
    info = hub.model(repo, revision or None)
    files = {sibling.rfilename for sibling in info.siblings or []}
    return from_model_info(info, "adapter" if "adapter_config.json" in files else "finetune")


def _local(folder: Path) -> Contribution:
    """A folder seen as the repository it would become; it says "you" where an account would stand."""
    from huggingface_hub import ModelCard

    card: dict[str, Any] = {}
    if (folder / "README.md").is_file():
        try:
            card = ModelCard((folder / "README.md").read_text()).data.to_dict()
        except Exception as error:  # the parser's errors are many; all mean the same
            raise HubFusionError(
                f"{folder / 'README.md'}: the YAML between the --- lines cannot be read: {error}"
            ) from None
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    tags = card.get("tags")
    info: Any = SimpleNamespace(
        id=f"you/{folder.resolve().name}", sha=NO_SHA, card_data=card, tags=tags if isinstance(tags, list) else [],
        private=False, gated=False, created_at=None, last_modified=None,
        siblings=[SimpleNamespace(rfilename=name) for name in files],
    )  # fmt: skip
    return from_model_info(info, "adapter" if "adapter_config.json" in files else "finetune")


def _local_headers(
    folder: Path,
    c: Contribution,
    base: dict[str, TensorSpec],
    memory: MemoryNames,
    frozen: bool,
    wanted: Wanted | None,
) -> Refusal | None:
    paired: dict[str, str] = {}
    try:
        if c.relation == "adapter":
            config, files = read_lora_config(folder), Checkpoint.open(folder, ADAPTER)
            plan_adapter(config, files, base, memory)
            if frozen:
                check_member(config, files, c.repo)
        else:
            files = Checkpoint.open(folder)
            paired = match_names(base, files).names
        if wanted:
            return check_brought(c, wanted, Brought.in_folder(folder), base, files, paired)
    except MismatchError as error:
        return misfit(c, error)
    except HeaderError as error:
        return c.refuse("screen", "malformed_weights", f"{error}.", "Save it again with save_pretrained.")
    except WeightsError as error:
        return c.refuse("screen", "unsupported_weights", f"{error}.", "Publish the full model in safetensors.")
    return None
