"""JSON of a base's repository → the values of `lineage`.

The format is that of hub_fusion's records; its JSON Schemas are in hub_fusion/schemas/. Nothing is trusted: every
attempt, contribution and refusal is checked by itself; an attempt that cannot be read becomes an `Unreadable` and does
not take the others with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import fields
from doubts import about_attempt, about_tasks
from fields import Malformed, finite, moment, needed, number, readable, rows, sha, some, text, whole
from lineage import Attempt, Credit, Index, Metric, Record, Refusal, Score, Status, Unreadable, Waiting
from measured import (
    entries,
    listed,
    read_analysis,
    read_canary,
    read_contamination,
    read_left_out,
    read_line,
    read_retained,
    read_rule,
    read_score,
    read_trial,
)

STATUSES = ("root", "published", "rejected", "yanked")
MOST_NAMES = 50_000  # of those that were refused and are told by name and code alone
MOST_ROWS = 2000  # contributions or refusals of one record, accounts of one index


def read_index(data: Mapping[str, Any]) -> Index:
    """``fusion/index.json``, attempts oldest first. Raises Malformed if it has no list of them."""
    entries = data.get("entries")
    if not isinstance(entries, list):
        raise Malformed("it has no list of entries")
    attempts = [_readable(entry, place) for place, entry in enumerate(entries, start=1)]
    seen: dict[int, Attempt | Unreadable] = {}
    for place, attempt in enumerate(attempts):
        if isinstance(attempt, Unreadable) or attempt.generation is None:
            continue
        if attempt.generation in seen:
            attempts[place] = Unreadable(attempt.name, "its number is taken by an earlier entry")
        elif attempt.parent is not None and attempt.parent >= attempt.generation:
            attempts[place] = Unreadable(
                attempt.name, f"it names gen-{attempt.parent}, which is no earlier one, as its parent"
            )
        seen.setdefault(attempt.generation, attempts[place])
    for place, attempt in enumerate(attempts):
        if isinstance(attempt, Attempt) and attempt.parent is not None:
            found = about_attempt(attempt, seen.get(attempt.parent))
            attempts[place] = replace(attempt, doubts=found) if found else attempt
    return Index(tuple(attempts), _accounts(data.get("contributors")), _root(data))


def read_record(data: Mapping[str, Any], generation: int) -> Record:
    """``fusion/gen-N.json``. Raises Malformed if it is another generation's, or has no contributions."""
    if data.get("generation") != generation:
        raise Malformed(f"it is not the record of gen-{generation}")
    credits, lost = readable(rows(data, "contributions")[:MOST_ROWS], _credit)
    refusals, refusals_lost = readable(rows(data, "refusals")[:MOST_ROWS], _refusal)
    verdict, control = some(data, "verdict"), some(data, "control")
    rules, rules_lost = readable(rows(verdict, "rules")[:MOST_ROWS], read_rule)
    canaries, canaries_lost = readable(rows(verdict, "canaries")[:MOST_ROWS], read_canary)
    trials, trials_lost = readable(rows(verdict, "trials")[:MOST_ROWS], read_trial)
    tasks, parent_tasks = _tasks(some(data, "candidate_scores")), _tasks(some(data, "parent_scores"))
    analysis, analysis_lost = readable([some(data, "analysis")], read_analysis)
    nats = (number(verdict, "parent") or 0.0) < 0
    line = some(data, "analysis").get("line")
    lines, line_lost = readable([] if line is None else [line], read_line)
    left_out, left_out_lost = readable(
        entries(some(data, "analysis"), "left_out")[:MOST_ROWS], lambda found: read_left_out(found, in_nats=nats)
    )
    retention, retention_lost = readable(listed(data, "retention")[:MOST_ROWS], read_retained)
    contaminated, contaminated_lost = readable(
        listed(data, "contaminated")[:MOST_ROWS], lambda found: read_contamination(found, generation)
    )
    seconds, hardware, versions = some(data, "seconds"), some(data, "hardware"), some(data, "versions")
    return Record(
        credits=credits,
        refusals=refusals,
        unreadable=lost + refusals_lost + rules_lost + canaries_lost + trials_lost + analysis_lost
        + line_lost + left_out_lost + retention_lost + contaminated_lost,
        tasks=tasks,
        parent_tasks=parent_tasks,
        control=_scores(control, "differences"),
        rules=rules,
        trials=trials,
        heads={task: score for (task, _, _), score in _by_task(data, "heads").items()},
        analysis=analysis[0] if analysis else None,
        epsilon=number(verdict, "epsilon"),
        withdrawn=text(some(data, "withdrawn"), "reason", 500),
        seconds=sum(finite(value, "a time") for value in seconds.values()),
        hardware=text(hardware, "name", 60) or text(hardware, "device", 60),
        versions={fields.clean(name, 40): text(versions, name, 40) for name in list(versions)[:20]},
        archive=text(data, "archive"),
        doubts=about_tasks(tasks, parent_tasks),
        recipe=fields.lines(data, "recipe"),
        path=_path(verdict),
        in_nats=nats,
        line=lines[0] if lines else None,
        left_out=dict(left_out),
        refused=_counts(data, "refused"),
        retention=retention,
        contaminated=contaminated,
        canaries=canaries,
    )  # fmt: skip


def _path(verdict: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """(step, gate mean) of the parent and of what was tried, in order of the step; none where nothing was."""
    parent, tried = number(verdict, "parent"), rows(verdict, "tried")[:MOST_ROWS]
    if parent is None or not tried:
        return ()
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in tried):
        raise Malformed("its tried steps are not pairs of numbers")
    steps = {finite(step, "a step"): finite(mean, "a mean") for step, mean in tried}
    return tuple(sorted({0.0: parent, **steps}.items()))


def read_status(data: Mapping[str, Any]) -> Status:
    """``fusion/status.json``. Raises Malformed if it does not say when it was written."""
    waiting, lost = readable(rows(data, "queue")[:MOST_ROWS], _waiting)
    refusals, refusals_lost = readable(rows(data, "refusals")[:MOST_ROWS], _refusal)
    return Status(
        heartbeat=moment(data, "heartbeat"),
        waiting=waiting,
        refusals=refusals,
        last_error=text(data, "last_error", 300),
        rejected=tuple(_readable(_small(a), n) for n, a in enumerate(rows(data, "rejected"), start=1)),
        unreadable=lost + refusals_lost,
        queued=whole(data, "queued") or 0,
        refused=_counts(data, "refused"),
        named=_named(data),
        later=readable(rows(data, "later")[:MOST_ROWS], _later)[0],
    )


def _readable(entry: Any, place: int) -> Attempt | Unreadable:
    """An attempt, or what can be said instead."""
    named = entry.get("generation") if isinstance(entry, dict) else None
    known = isinstance(named, int) and not isinstance(named, bool) and 0 <= named < 10**6
    try:
        return _attempt(entry)
    except Malformed as error:
        return Unreadable(f"gen-{named}" if known else f"attempt {place}", str(error))


def _attempt(data: Any) -> Attempt:
    if not isinstance(data, dict):
        raise Malformed("it is not an object")
    fields.known_version(data)
    status, generation = text(data, "status"), whole(data, "generation")
    if status not in STATUSES:
        raise Malformed(f"its status is none of {', '.join(STATUSES)}")
    if (generation is None) != (status == "rejected"):
        raise Malformed(f"it is {status}, but its generation is {'missing' if generation is None else generation}")
    revision = text(data, "revision")
    if revision and not fields.SHA.fullmatch(revision):
        raise Malformed("its revision is not a commit of 40 hex digits")
    authors, step = data.get("authors"), number(data, "step")
    return Attempt(
        id=text(data, "id", 64),
        status=status,
        created_at=moment(data, "created_at"),
        generation=generation,
        revision=revision or None,
        parent=whole(data, "parent_generation"),
        method=text(data, "method", 40),
        step=1.0 if step is None else step,
        contributions=whole(data, "contributions") or 0,
        authors=tuple(fields.clean(a, 100) for a in authors[:50] if isinstance(a, str))
        if isinstance(authors, list) else (),
        refusals=whole(data, "refusals") or 0,
        scores=_scores(data, "scores"),
        differences=_scores(data, "differences"),
        likelihoods=_scores(data, "likelihoods"),
        suite=text(data, "suite", 64),
        reason=text(data, "reason", 400),
    )  # fmt: skip


def _small(data: Any) -> Any:
    """A whole attempt, as status.json holds it, in the index's small form."""
    if not isinstance(data, dict):
        return data
    measured, verdict = data.get("candidate_scores"), data.get("verdict")
    measured, verdict = (x if isinstance(x, dict) else {} for x in (measured, verdict))
    given, refused, counted = data.get("contributions"), data.get("refusals"), data.get("refused")
    if isinstance(counted, dict) and counted:
        refused = range(sum(_accounts(counted).values()))  # of whom `refusals` tells some
    credits = [c for c in given if isinstance(c, dict)] if isinstance(given, list) else []
    authors = sorted({c["author"] for c in credits if isinstance(c.get("author"), str)})
    return data | {"contributions": len(credits), "authors": authors,
                   "refusals": len(refused) if isinstance(refused, list | range) else 0,
                   "scores": measured.get("means"), "likelihoods": None, "suite": measured.get("suite"),
                   "reason": verdict.get("reason")}  # fmt: skip


def _scores(data: Mapping[str, Any], name: str) -> dict[Metric, Score]:
    """(role, protocol) → mean over the tasks."""
    return {(role, protocol): score for (task, role, protocol), score in _by_task(data, name).items() if not task}


def _tasks(data: Mapping[str, Any]) -> dict[tuple[str, str, str], Score]:
    """(task, role, protocol) → accuracy."""
    return {key: score for key, score in _by_task(data, "tasks").items() if key[0]}


def _by_task(data: Mapping[str, Any], name: str) -> dict[tuple[str, str, str], Score]:
    found: dict[tuple[str, str, str], Score] = {}
    for item in rows(data, name)[:MOST_ROWS]:
        if not isinstance(item, dict):
            raise Malformed(f"{name} holds something that is not an object")
        key = text(item, "task", 60), text(item, "role", 20), text(item, "protocol", 40)
        found[key] = read_score(item, name)
    return found


def _credit(data: Mapping[str, Any]) -> Credit:
    scale = number(data, "scale")
    return Credit(
        needed(data, "repo"), sha(data), text(data, "author", 100), text(data, "relation", 20),
        text(data, "license", 60), text(data, "task", 120), number(data, "weight"), 1.0 if scale is None else scale,
        datasets=tuple(fields.clean(d, 100) for d in rows(data, "datasets")[:10] if isinstance(d, str)),
        generation=whole(data, "generation"), known_by=text(data, "known_by", 20), norm=number(data, "norm"),
        cosine=number(data, "cosine"),
    )  # fmt: skip


def _refusal(data: Mapping[str, Any]) -> Refusal:
    return Refusal(needed(data, "repo"), sha(data), text(data, "author", 100), text(data, "code", 60),
                   text(data, "reason", 500), text(data, "fix", 500), text(data, "stage", 20))  # fmt: skip


def _later(data: Mapping[str, Any]) -> tuple[str, int, str]:
    return needed(data, "repo"), whole(data, "generation") or 0, text(data, "reason", 300)


def _waiting(data: Mapping[str, Any]) -> Waiting:
    since = None if data.get("since") is None else moment(data, "since")
    return Waiting(needed(data, "repo"), sha(data), since)


def _counts(data: Mapping[str, Any], name: str) -> dict[str, int]:
    """Code → how many."""
    return _accounts(data.get(name))


def _named(data: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Repository in lower case → its name and the code it was refused for."""
    found: dict[str, tuple[str, str]] = {}
    for code, repos in list(some(data, "refused_names").items())[:MOST_ROWS]:
        for repo in repos[: MOST_NAMES - len(found)] if isinstance(repos, list) else ():
            if isinstance(repo, str) and (name := fields.clean(repo)):
                found[name.casefold()] = name, fields.clean(code, 60)
    return found


def _accounts(data: Any) -> dict[str, int]:
    """Account, or code → number; those that are no numbers are left out."""
    if not isinstance(data, dict):
        return {}
    known = ((fields.clean(name, 100), n) for name, n in list(data.items())[:MOST_ROWS])
    return {name: n for name, n in known if isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 10**6}


def _root(data: Mapping[str, Any]) -> str:
    root = data.get("root")
    return fields.clean(root) if isinstance(root, str) else ""
