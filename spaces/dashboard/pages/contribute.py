"""Contribute: five steps, and what became of a repository, looked up in what was read; the Hub is not asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from drawing import render
from query import Query
from view import Row, View
from words import REPO, repo_url

MOST_EVENTS = 20


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    newest = view.newest
    tag = newest.name if newest else "gen-0"
    base = view.data.base if REPO.fullmatch(view.data.base) else "account/base"
    return render("contribute.html", query=query, base=base, tag=tag, answer=look_up(view, query["repo"]),
                  steps=steps(base, tag),
                  known=view.by_name)  # fmt: skip


def steps(base: str, tag: str) -> list[dict[str, str]]:
    """Commands to copy; they hold no stranger's text."""
    return [
        {"id": "step-load", "name": "Python", "text":
         f'from transformers import AutoModelForSequenceClassification\n\nmodel = AutoModelForSequenceClassification'
         f'.from_pretrained("{base}", revision="{tag}")'},
        {"id": "step-callback", "name": "Python", "text":
         f'from hub_fusion import ContributeCallback\n\ntrainer.add_callback(ContributeCallback("{base}", '
         f'revision="{tag}"))'},
        {"id": "step-push", "name": "Python", "text": "trainer.train()\ntrainer.push_to_hub()"},
        {"id": "step-upload", "name": "Shell", "text":
         f"hub-fusion contribute my-finetune you/model --base {base} --revision {tag} "
         "--license apache-2.0 --task sentiment"},
        {"id": "step-check", "name": "Shell", "text": "hub-fusion check you/model"},
    ]  # fmt: skip


def look_up(view: View, asked: str) -> dict[str, Any] | None:
    """What is known of a repository: queued, fused, refused, nothing; None where nobody asked."""
    repo = asked.strip().removeprefix(view.data.endpoint + "/").removeprefix("https://huggingface.co/").strip("/")
    if not repo:
        return None
    if not REPO.fullmatch(repo):
        return {"kind": "bad", "repo": repo, "events": []}
    events = [row for row in view.rows if row.repo.casefold() == repo.casefold()]
    kinds = {row.status for row in events}
    kind = next((k for k in ("waiting", "fused", "refused") if k in kinds), "unknown")
    if kind != "waiting" and events and events[0].status == "refused":
        kind = "refused"  # the newest word on it, whatever became of older commits
    name, code = view.status.named.get(repo.casefold(), (repo, "")) if view.status else (repo, "")
    if code and kind != "waiting" and not (events and events[0].refusal and events[0].generation is None):
        kind = "named"  # the newest word is its code alone
    return {"kind": kind, "repo": events[0].repo if events else name, "events": _grouped(events)[:MOST_EVENTS],
            "code": code, "nameless": view.status.nameless if view.status else 0,
            "url": repo_url(view.data.endpoint, repo), "read": bool(view.rows or view.data.read_at),
            "check": {"id": "lookup-check", "name": "Shell", "text": f"hub-fusion check {repo}"}}  # fmt: skip


def _grouped(events: list[Row]) -> list[tuple[Row, list[str]]]:
    """Each event with the generations it belongs to: a commit that is refused again and again is told once."""
    found: dict[tuple[str, str, str], tuple[Row, list[str]]] = {}
    for row in events:
        code = row.refusal.code if row.refusal else str(row.generation)
        _, names = found.setdefault((row.status, row.sha, code), (row, []))
        names.append("this round" if row.generation is None else f"gen-{row.generation}")
    return list(found.values())
