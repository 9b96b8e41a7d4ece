"""Looking again and again: only what changed is listed, and nothing is asked twice about a commit.

The Hub lists the children of a base by their last change, newest first. A look reads as far as the newest change it
knows and a little beyond, where changes of equal times and late entries into the Hub's index are: one request for each
name of the base while nothing happens. Now and then (recipe: rescan) all is listed, which also notices deletions,
settings (they change no date) and what was pushed with a date of long ago. `confirm` asks once more for those that are
about to be fused. Metadata rules are applied anew to what is listed, since they may depend on the day; verdicts on
headers are kept, as are those of the screen that another look at the same bytes cannot change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion import __version__
from hub_fusion.contributions.brought import Wanted
from hub_fusion.contributions.cache import Cache, with_cache
from hub_fusion.contributions.discover import EPOCH, from_model_info, put_together, read_child, read_included
from hub_fusion.contributions.filters import Circumstances, filter_contributions
from hub_fusion.contributions.later import changed_later
from hub_fusion.contributions.licenses import BaseLicense, Link, read_base_license
from hub_fusion.contributions.screen import NOT_FETCHED, check_headers
from hub_fusion.errors import RepoMissing
from hub_fusion.recipe import Recipe
from hub_fusion.records import Contribution, Credit, Later, Refusal, now
from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.names import memory_names
from hub_fusion.weights.remote import checkpoint_headers
from hub_fusion.weights.vocabulary import with_rows_of

if TYPE_CHECKING:
    from hub_fusion.hub import Hub

PAGE = 100  # repositories in a request of a look that expects nothing
OVERLAP = timedelta(minutes=10)  # read beyond the newest change that is known
LASTING = frozenset({"not_finite", "unchanged", "statistics_invalid", "unsupported_weights"})  # verdicts of the screen
Found = tuple[list[Contribution], list[Refusal]]


@dataclass(frozen=True)
class Listing:
    """What is known of a base's children, kept in a file that may be deleted at any time."""

    file: Path
    say: Callable[[str], None] = lambda _: None

    def look(
        self, hub: Hub, recipe: Recipe, fused: frozenset[str], weights_at: str, root_at: str | None = None
    ) -> Found:
        """The queue in canonical order, and all refusals by metadata and by headers.

        `weights_at`: the commit of the base whose tensors contributions must have, of tokens as many as at `root_at`.
        Raises HubUnreachable; what was found out before that is kept.
        """

        def work(cache: Cache) -> Found:
            for name in (recipe.base, *recipe.aliases):
                self._list(cache, hub, recipe, name)
            listed = [record for name in (recipe.base, *recipe.aliases) for record in cache.listed(name)]
            found, refusals = put_together(recipe, [*listed, *read_included(hub, recipe)])
            at = Circumstances(recipe, fused, lambda: self._license(cache, hub, recipe, weights_at))
            kept, more = filter_contributions(found, at)
            queue, last = self._headers(cache, hub, recipe, kept, weights_at, root_at or weights_at)
            return queue, [*refusals, *more, *last]

        return with_cache(self.file, hub.endpoint, work)

    def confirm(self, hub: Hub, recipe: Recipe, chosen: Sequence[Contribution]) -> bool:
        """Whether these are on the Hub as they were listed, one request each; where not, the next look knows."""
        included = {name.lower() for name in recipe.contributions.include}
        listed = [c for c in chosen if c.repo.lower() not in included]  # every look asks for the others

        def work(cache: Cache) -> bool:
            return not [c for c in listed if not self._confirm(cache, hub, recipe, c)]

        return with_cache(self.file, hub.endpoint, work)

    def _confirm(self, cache: Cache, hub: Hub, recipe: Recipe, c: Contribution) -> bool:
        try:
            info = hub.model(c.repo)
        except RepoMissing:
            cache.forget(c.repo)
            self.say(f"{c.repo} is gone")
            return False
        bases = [name for name in (recipe.base, *recipe.aliases) if cache.child(name, c.repo)]
        today = {name: read_child(info, name) for name in bases}
        changed = [name for name in bases if _but_dates(today[name]) != _but_dates(cache.child(name, c.repo))]
        for name in changed:
            cache.keep_listed(name, [(c.repo, str(info.sha), today[name])], {}, everything=False)
            self.say(f"{c.repo} has changed")
        return not changed

    def later(self, hub: Hub, recipe: Recipe, credits: Sequence[tuple[int, Credit]]) -> tuple[Later, ...]:
        """Which contributions of generations are no longer what they were. After `look`.

        One request for each that is not listed any more, once after every listing of everything.
        """

        def work(cache: Cache) -> tuple[Later, ...]:
            names = (recipe.base, *recipe.aliases)
            stamp = " ".join(cache.fact(f"all of {name}") or "" for name in names)

            def today(repo: str) -> Contribution | Refusal | None:
                listed = (cache.child(name, repo) for name in names)
                return next((child for child in listed if child), None) or _unlisted(cache, hub, repo, stamp)

            return changed_later(credits, today)

        return with_cache(self.file, hub.endpoint, work) if credits else ()

    def remember(self, hub: Hub, refusals: Iterable[Refusal]) -> None:
        """Keep what the screen found out and will find again, whatever else is fused: it is not downloaded again."""

        def work(cache: Cache) -> None:
            policy = cache.fact("policy")
            for refusal in refusals:
                if refusal.code in LASTING and policy:
                    cache.keep_verdict(refusal, policy, refusal)

        with_cache(self.file, hub.endpoint, work)

    def _list(self, cache: Cache, hub: Hub, recipe: Recipe, base: str) -> None:
        """Bring up to date what is known of the children of one name of the base."""
        begun, mark = now(), cache.moment(f"newest of {base}")
        before = cache.moment(f"all of {base}")
        everything = mark is None or before is None or not timedelta(0) <= begun - before < recipe.rescan
        read, newest = [], mark or EPOCH
        for info in hub.children(base, page=None if everything else PAGE):
            changed = info.last_modified or begun
            if not everything and mark and changed < mark - OVERLAP:
                break
            newest = max(newest, min(changed, begun))  # a push may bring a date of the far future with it
            read.append((info.id, str(info.sha), read_child(info, base)))
        facts = {f"newest of {base}": newest.isoformat()}
        facts |= {f"all of {base}": begun.isoformat()} if everything else {}
        cache.keep_listed(base, read, facts, everything=everything)

    def _license(self, cache: Cache, hub: Hub, recipe: Recipe, weights_at: str) -> BaseLicense:
        """What binds the base, asked anew for every generation and whenever all is listed."""
        own, root = recipe.publish.license, recipe.root
        asked = json.dumps([weights_at, own, root, cache.fact(f"all of {recipe.base}")])
        if cache.fact("license for") != asked:
            chain = read_base_license(hub, recipe.base, own=own, root=root).chain
            cache.keep_fact("license", json.dumps([[link.repo, link.license, link.readable] for link in chain]))
            cache.keep_fact("license for", asked)
        return BaseLicense(tuple(Link(*link) for link in json.loads(cache.fact("license") or "[]")))

    def _headers(
        self, cache: Cache, hub: Hub, recipe: Recipe, kept: list[Contribution], weights_at: str, root_at: str
    ) -> Found:
        """Those whose headers pass, and refusals of the others; asks for headers that no verdict is known of."""
        base: dict[str, TensorSpec] = {}

        def specs() -> dict[str, TensorSpec]:
            if not base:
                base.update(checkpoint_headers(hub, recipe.base, weights_at))
                if root_at != weights_at:
                    base.update(with_rows_of(base, checkpoint_headers(hub, recipe.base, root_at)))
            return base

        @once
        def memory() -> Mapping[str, list[str]]:
            return memory_names(hub.snapshot(recipe.base, weights_at, ["config.json"]), specs())

        policy = _policy(cache, recipe, weights_at, specs)
        verdicts, queue, refusals = cache.verdicts(policy), list[Contribution](), list[Refusal]()
        wanted = None
        for number, c in enumerate(kept, start=1):
            key = f"{c.repo.lower()}@{c.sha}"
            if key not in verdicts:
                if number % 100 == 0:
                    self.say(f"reading headers, {number} of {len(kept)}")
                wanted = wanted or Wanted.of(
                    recipe, lambda: hub.read_text(recipe.base, "config.json", revision=weights_at), specs()
                )
                frozen = recipe.publish.kind == "adapter"
                verdicts[key] = found = check_headers(hub, c, specs(), memory, frozen=frozen, wanted=wanted)[1]
                if not found or found.code != NOT_FETCHED:
                    cache.keep_verdict(c, policy, found)
            refusal = verdicts[key]
            refusals.append(refusal) if refusal else queue.append(c)
        return queue, refusals


def _unlisted(cache: Cache, hub: Hub, repo: str, stamp: str) -> Contribution | None:
    """What a repository that is not listed is today, as it was found when `stamp` was new; None if it is gone."""
    known, at, text = (cache.fact(f"unlisted {repo.lower()}") or "").rpartition("\n")
    if not at or known != stamp:
        try:
            text = from_model_info(hub.model(repo), "finetune").to_json()
        except RepoMissing:
            text = ""
        cache.keep_fact(f"unlisted {repo.lower()}", f"{stamp}\n{text}")
    return Contribution.from_json(text) if text else None


def _policy(cache: Cache, recipe: Recipe, weights_at: str, specs: Callable[[], Mapping[str, TensorSpec]]) -> str:
    """What verdicts on headers depend on besides the contribution: the base's tensors, and what the recipe wants."""
    tensors = cache.fact(f"tensors of {weights_at}")
    if tensors is None:
        lines = [f"{name} {spec.dtype} {list(spec.shape)}" for name, spec in sorted(specs().items())]
        tensors = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        cache.keep_fact(f"tensors of {weights_at}", tensors)
    asked = [__version__, tensors, recipe.publish.kind, recipe.merge.method, recipe.merge.options]
    policy = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()
    cache.keep_fact("policy", policy)
    return policy


def _but_dates(record: Contribution | Refusal | None) -> Contribution | Refusal | None:
    """The record without what may be told in another precision by another route."""
    if not isinstance(record, Contribution):
        return record
    update = {"created_at": None, "last_modified": None, "files": tuple(sorted(record.files))}
    return record.model_copy(update=update)
