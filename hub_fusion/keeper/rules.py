"""What a keeper does for its worker, and what not: only what a round of its own recipe can ask for.

What a record says of the base must be so on the Hub, which is read here and not believed; what lies in the candidate
folder is held to the record and the base by `check_candidate`.
"""

from __future__ import annotations

from dataclasses import replace

from hub_fusion.errors import DeedRefused, HubFusionError, OutputError, RecordError, WeightsError
from hub_fusion.hub import Discussions, Hub
from hub_fusion.publish.answers import TITLE
from hub_fusion.publish.archive import default_archive
from hub_fusion.publish.commit import PublishConflict, same_but_card
from hub_fusion.publish.state import BaseState, open_base
from hub_fusion.recipe import Recipe
from hub_fusion.records import Attempt, Generation


def state_at(hub: Hub, recipe: Recipe, head: str) -> BaseState:
    """The base as it is, if nothing but its card has changed since `head`. Raises PublishConflict."""
    state = open_base(hub, recipe.base, recipe.root, mend=False)
    if state.head != head and not same_but_card(hub, recipe.base, state.head, head):
        raise PublishConflict(f"{recipe.base} moved from {head[:8]} to {state.head[:8]} while the round ran")
    return replace(state, head=head)


def check_attempt(recipe: Recipe, record: Attempt) -> None:
    """Raise DeedRefused for the record of another base or recipe."""
    if record.base != recipe.base:
        raise DeedRefused(f"a record of {record.base[:200]!r}; this keeper's base is {recipe.base}")
    if record.recipe != recipe.to_yaml():
        raise DeedRefused("a record of another recipe than this keeper's; was the file changed meanwhile?")


def check_rejected(recipe: Recipe, record: Attempt) -> None:
    """The same for what the gate rejected."""
    check_attempt(recipe, record)
    if record.status != "rejected" or record.generation is not None:
        raise DeedRefused(f"an attempt that is {record.status} is not one that the gate rejected")


def check_generation(recipe: Recipe, state: BaseState, record: Generation) -> None:
    """Raise DeedRefused unless the record is that of the next generation of this base, by this recipe."""
    check_attempt(recipe, record)
    said = {"status": record.status, "generation": record.generation, "parent_generation": record.parent_generation,
            "parent_revision": record.parent_revision, "root": record.root, "withdrawn": record.withdrawn,
            "read at": record.formula.base_revision if record.formula else None}  # fmt: skip
    so = {"status": "published", "generation": state.next_generation, "parent_generation": state.generation,
          "parent_revision": state.revision, "root": recipe.root or state.index.root, "withdrawn": None,
          "read at": state.head}  # fmt: skip
    if wrong := [f"{name} is {said[name]}, not {so[name]}" for name in so if said[name] != so[name]]:
        raise DeedRefused(f"no record of gen-{state.next_generation} of {recipe.base}: {'; '.join(wrong)}")
    if record.verdict is None or not record.verdict.accepted:
        raise DeedRefused("the record does not say that the gate accepted it")
    archive = None if recipe.archive.keep == "none" else recipe.archive.repo or default_archive(recipe.base)
    if record.archive not in (None, archive):
        raise DeedRefused(f"the record names {record.archive[:200]!r} as its archive, not {archive}")


def refused(what: str, error: HubFusionError) -> HubFusionError:
    """What is wrong with files of the worker is a refusal; a Hub that does not answer is not."""
    wrong = isinstance(error, OutputError | WeightsError | RecordError)
    return DeedRefused(f"{what}: {error}") if wrong else error


def check_discussion(hub: Hub, recipe: Recipe, number: int) -> None:
    """Raise DeedRefused for a discussion that is closed, or announces nothing."""
    if not any(t.number == number and TITLE.fullmatch(t.title) for t in Discussions(hub).newest(recipe.base)):
        raise DeedRefused(f"discussion {number} of {recipe.base} is not an open one that announces a contribution")
