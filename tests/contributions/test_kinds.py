"""The table of what people upload: each kind, on a real Hub, gets the verdict that stands beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hub_fusion.contributions.listing import Listing
from hub_fusion.hub import Hub
from hub_fusion.local_hub import serve
from hub_fusion.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "benchmarks" / "watch"


def test_every_kind_of_upload_gets_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each beside each other: none stops the others, each is refused for its fault, with a reason and a fix."""
    monkeypatch.syspath_prepend(FOLDER)
    from kinds import BASE, KINDS, UNLISTED_VERDICT
    from seed import seed

    expected, _ = seed(tmp_path / "hub", KINDS.items())
    names = dict(zip(expected, KINDS, strict=True))
    with serve(tmp_path / "hub") as server:
        hub = Hub(server.url, token=None, cache_dir=tmp_path / "cache")
        queue, refusals = Listing(tmp_path / "listing.sqlite3").look(
            hub, Recipe(base=BASE), frozenset(), hub.resolve(BASE)
        )
    told = {c.repo: "" for c in queue} | {r.repo: r.code for r in refusals}
    assert {names[r]: told.get(r, UNLISTED_VERDICT) for r in expected} == {names[r]: v for r, v in expected.items()}
    assert set(told) <= set(expected)
    for refusal in refusals:
        assert refusal.reason.isprintable() and refusal.fix and len(refusal.reason) < 2000
    for name in ("kinds", "seed"):
        sys.modules.pop(name)
