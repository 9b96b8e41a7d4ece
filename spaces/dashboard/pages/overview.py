"""Overview: should I pull the newest generation? Verdict, score over generations, how to load it, what went in."""

from __future__ import annotations

from datetime import datetime

from charts.score import MOST_MARKS, breaks, score_charts
from drawing import render
from lineage import Attempt, Record, Score
from query import Query
from view import Key, View, key_words, not_held_out
from words import REPO, count, license_class, percent, repo_url, signed, span

MOST_CREDITS, MOST_REFUSALS, MOST_RULES = 8, 3, 12


def draw(view: View, query: Query, now: datetime) -> str:
    """The page."""
    chosen, key = view.chosen(query), view.metric(query)
    record = view.record(chosen)
    tainted = not_held_out(record)
    shown = sorted(record.credits, key=lambda c: -(c.weight or 0))[:MOST_CREDITS] if record else []
    heaviest = max((c.weight or 0 for c in shown), default=0) or 1
    return render(
        "overview.html", chosen=chosen, query=query,
        nothing="No generation yet" if view.data.read_at else "Nothing to show yet",
        words=key_words(key, tainted), tainted=tainted, verdict=verdict(view, chosen, key),
        tiles=tiles(view, chosen, key), charts=score_charts(view, key, chosen), breaks=breaks(view),
        hidden=max(0, len(view.data.attempts) - MOST_MARKS),
        metrics=[(name, key_words(k, tainted), k == key) for name, k in view.metrics.items()],
        table=[] if query["brief"] else table(view, key),
        snippets=snippets(view, chosen), record=record, problem=problem(view, chosen),
        doubts=[*(chosen.doubts if chosen else ()), *(record.doubts if record else ())],
        rules=record.rules[:MOST_RULES] if record else (), canaries=canaries(record),
        refusals=[{"refusal": r, "url": repo_url(view.data.endpoint, r.repo, r.sha)}
                  for r in (record.refusals[:MOST_REFUSALS] if record else ())],
        credits=[{"credit": c, "share": round(100 * (c.weight or 0) / heaviest, 1),
                  "url": repo_url(view.data.endpoint, c.repo, c.sha)} for c in shown],
    )  # fmt: skip


def canaries(record: Record | None) -> str:
    """One line on the inputs that the maintainers keep back; "" where a recipe names none."""
    if record is None or not record.canaries:
        return ""
    tripped = [canary for canary in record.canaries if not canary.passed]
    told = (f"{len(record.canaries)} held" if not tripped else
            f"{len(tripped)} of {len(record.canaries)} tripped ({', '.join(c.name for c in tripped[:5])})")  # fmt: skip
    gone = sum(canary.tripped_by for canary in record.canaries)
    return f"Canaries: {told}{f'; left out since they tripped one: {gone}' if gone else ''}."


def table(view: View, key: Key | None) -> list[tuple[Attempt, Score | None]]:
    """The chart's numbers, newest first."""
    shown = view.data.attempts[-MOST_MARKS:]
    return [(a, view.score(a, key)) for a in reversed(shown) if isinstance(a, Attempt)]


def verdict(view: View, chosen: Attempt | None, key: Key | None) -> str:
    """One sentence that says whether the generation is better than its parent; without one, what there is instead."""
    attempts = view.data.attempts
    if chosen is None:
        if any(isinstance(a, Attempt) and a.status == "rejected" for a in attempts):
            return "No generation has passed the gate yet."
        if attempts:
            return "No generation of this lineage can be read."
        if view.data.read_at is None:
            return ""
        waiting = f" {count(view.status.queue, 'waits', 'wait')}." if view.status and view.status.queue else ""
        return f"gen-1 is made once enough contributions are in.{waiting}"
    if chosen.generation == 0:
        return "gen-0 holds the weights from before the first fuse."
    change = chosen.differences.get((key[0], key[1])) if key and len(key) == 2 else None
    parent = "its parent" if chosen.parent is None else f"gen-{chosen.parent}"
    if change is None:
        return f"{chosen.name} was made from {parent}; how they compare was not recorded."
    if change.low <= 0 <= change.high:
        return f"{chosen.name} and {parent} cannot be told apart: {signed(change.mean)} points may be chance."
    better = "better" if change.mean > 0 else "worse"
    return f"{chosen.name} is {percent(abs(change.mean))} points {better} than {parent}, more than chance explains."


def tiles(view: View, chosen: Attempt | None, key: Key | None) -> list[dict[str, str]]:
    """The numbers behind the sentence: name, value, what it means."""
    if chosen is None:
        return []
    score: Score | None = view.score(chosen, key)
    found: list[dict[str, str]] = []
    if score:
        found.append({"name": "Accuracy", "value": f"{percent(score.mean)} %", "note": f"95 % interval {span(score)}"})
    if key and len(key) == 2 and (change := chosen.differences.get((key[0], key[1]))):
        found.append({"name": f"Change over gen-{chosen.parent}", "value": signed(change.mean),
                      "note": f"points, {span(change, sign=True)}"})  # fmt: skip
    first = view.generations[0] if view.generations else None
    start = view.score(first, key) if first else None
    if score and start and first is not chosen and first is not None and first.suite == chosen.suite:
        found.append({"name": f"Since {first.name}", "value": signed(score.mean - start.mean), "note": "points in all"})
    if chosen.generation:
        record = view.record(chosen)
        authors = (
            len({c.author for c in record.credits}) if record else len(chosen.authors)
        )  # the index names 20 at most
        people = f"by {count(authors, 'account')}" if authors else "fused"
        found.append({"name": "Contributions", "value": f"{chosen.contributions}",
                      "note": f"{people}, {chosen.refusals} refused"})  # fmt: skip
    if record := view.record(chosen):
        kinds = sorted({c.license or "unknown" for c in record.credits})
        if kinds:
            safe = all(license_class(k) == "permissive" for k in kinds)
            found.append({"name": "Licences", "value": "permissive" if safe else "mixed",
                          "note": ", ".join(kinds[:4]) + ("…" if len(kinds) > 4 else "")})  # fmt: skip
    return found


def problem(view: View, chosen: Attempt | None) -> str:
    """Why there is nothing to say about what went in, "" where there is."""
    found = view.data.records.get(chosen.generation) if chosen and chosen.generation is not None else None
    if chosen is None or chosen.generation == 0 or view.record(chosen):
        return ""
    return f"The record of {chosen.name} cannot be read: {found.problem}." if found else "Its record was not read."


def snippets(view: View, chosen: Attempt | None) -> list[dict[str, str]]:
    """How to load the generation: moving tag, pinned commit, files only. Holds no stranger's text."""
    base = view.data.base
    if chosen is None or not REPO.fullmatch(base):
        return []
    default = view.data.endpoint == "https://huggingface.co"
    hub, shell = ("", "") if default else (f"# with HF_ENDPOINT={view.data.endpoint}\n",
                                           f"HF_ENDPOINT={view.data.endpoint} ")  # fmt: skip

    def python(revision: str) -> str:
        return (f"{hub}from transformers import AutoModel\n\n"
                f'model = AutoModel.from_pretrained("{base}", revision="{revision}")')  # fmt: skip

    found = [{"id": "load", "name": "Load it", "text": python(chosen.name)}]
    if chosen.revision:
        found.append({"id": "load-pinned", "name": "Pinned to the commit", "text": python(chosen.revision)})
    return [*found, {"id": "load-files", "name": "Only the files",
                     "text": f"{shell}hf download {base} --revision {chosen.name}"}]  # fmt: skip
