"""Makes lineages of any size, as the records that a watcher would have published. Does nothing as a script."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from hub_fusion.records import Analysis, Attempt, Credit, Difference, Generation, Index, Refusal, Score, Scores, Status

BASE, ROOT = "acme/grown", "acme/root"
START = datetime(2024, 1, 6, 8, tzinfo=UTC)
TASKS = ("cr", "trec", "subj", "sst5", "banking77", "rte", "cola", "mrpc")
LICENSES = ("mit", "apache-2.0", "cc-by-4.0", "bsd-3-clause")
REASON = "Its weights are those of another contribution of this round, which was there first."
FIX = "Contribute your own training; copies do not count twice."


def lineage(generations: int, contributions: int, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(path in the repository, text): `generations` after gen-0 with so many contributions each.

    Every fifth generation has a rejected attempt before it; scores grow and level off. The last file is the index.
    """
    dice = random.Random(seed)  # noqa: S311 (no secrets)
    people = [f"person-{n}" for n in range(max(2, generations * contributions // 8))]
    given: dict[str, int] = {}
    entries = [_root()]
    before = entries[0].candidate_scores
    for number in range(1, generations + 1):
        at = START + timedelta(days=3 * number)
        if number % 5 == 0:
            entries.append(_attempt(dice, None, number - 1, at - timedelta(days=1), before, people, 2))
        record = _attempt(dice, number, number - 1, at, before, people, contributions)
        yield f"fusion/gen-{number}.json", record.to_json()
        entries.append(record)
        before = record.candidate_scores
        for credit in record.contributions:
            given[credit.author] = given.get(credit.author, 0) + 1
    waiting = [{"repo": f"{dice.choice(people)}/waiting-{n}", "sha": sha("waiting", n), "since": at} for n in range(5)]
    status = {"base": BASE, "heartbeat": datetime.now(UTC), "generation": generations, "queue": waiting}
    yield "fusion/status.json", Status.model_validate(status).to_json()
    counted = dict(sorted(given.items(), key=lambda pair: (-pair[1], pair[0]))[:1000])
    index = Index(base=BASE, root=ROOT, updated_at=at, contributors=counted,
                  entries=tuple(e.to_entry(None if e.generation is None else sha("gen", e.generation))
                                for e in entries))  # fmt: skip
    yield "fusion/index.json", index.to_json()


def sha(*parts: object) -> str:
    """A commit that is always the same."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:40]


def _root() -> Attempt:
    return Attempt(id=hashlib.sha256(b"root").hexdigest(), status="root", generation=0, base=BASE, root=ROOT,
                   created_at=START, method="", candidate_scores=_measure(random.Random(0), 0))  # noqa: S311  # fmt: skip


def _attempt(
    dice: random.Random, number: int | None, parent: int, at: datetime, before: Scores | None, people: list[str],
    contributions: int,
) -> Attempt:  # fmt: skip
    assert before is not None
    credits = tuple(_credit(dice, parent, place, people, contributions, number) for place in range(contributions))
    scores = _measure(dice, parent + 1 if number else parent - 3)
    differences = tuple(
        Difference(
            role=a.role, protocol=a.protocol, mean=(d := round(a.mean - b.mean, 6)), low=d - 0.006, high=d + 0.006
        )
        for a, b in zip(scores.means, before.means, strict=True)
    )
    refusals = tuple(
        Refusal(repo=f"{dice.choice(people)}/copy-{parent}-{n}", sha=sha("copy", parent, n), author="mallory",
                stage="screen", code="copy", reason=REASON, fix=FIX) for n in range(3)
    )  # fmt: skip
    values: dict[str, Any] = {
        "id": hashlib.sha256(f"{number} {parent}".encode()).hexdigest(), "base": BASE, "root": ROOT,
        "status": "published" if number else "rejected", "generation": number, "parent_generation": parent,
        "parent_revision": sha("gen", parent), "created_at": at, "contributions": credits, "refusals": refusals,
        "parent_scores": before, "candidate_scores": scores, "differences": differences,
        "analysis": _analysis(dice, credits) if number else None,
        "verdict": {
            "accepted": number is not None, "step": 1.0, "epsilon": 0.02, "candidate": scores.mean("gate"),
            "parent": before.mean("gate"), "best": before.mean("gate"), "reason": "by the means of the gate tasks",
            "tried": ((1.0, scores.mean("gate")),),
        },
        "versions": {"hub_fusion": "0.1.0"}, "hardware": {"name": "NVIDIA L4"}, "seconds": {"evaluate": 840.0},
    }  # fmt: skip
    return Generation.model_validate(values) if number else Attempt.model_validate(values)


def _credit(dice: random.Random, parent: int, place: int, people: list[str], count: int, number: int | None) -> Credit:
    author = dice.choice(people)
    repo = f"{author}/finetune-{parent + 1}-{place}" + ("" if number else "-again")
    return Credit(
        repo=repo, sha=sha(repo), relation="adapter" if place % 5 == 0 else "finetune", author=author,
        license=dice.choice(LICENSES), task=f"a task of the kind {place % 17}", datasets=(f"sets/number-{place % 40}",),
        generation=parent, origin_revision=sha("gen", parent), known_by="card", weight=round(1 / count, 9),
        norm=round(dice.uniform(1, 3), 4), cosine=round(dice.uniform(0.2, 0.7), 4),
        scale=0.7 if place % 11 == 0 else 1.0,
    )  # fmt: skip


def _analysis(dice: random.Random, credits: tuple[Credit, ...]) -> Analysis:
    count = len(credits)
    table = [[1.0 if i == j else round(dice.uniform(-0.1, 0.5), 4) for j in range(count)] for i in range(count)]
    table = [[table[min(i, j)][max(i, j)] for j in range(count)] for i in range(count)]
    drift = {f"encoder.layer.{n}": round(dice.uniform(0.001, 0.01), 6) for n in range(24)}
    return Analysis.model_validate(
        {"contributions": [c.key for c in credits], "cosines": table, "opposed": table,
         "spectrum": [round(1 / count, 6)] * count, "directions": count * 0.8, "drift": drift}
    )  # fmt: skip


def _measure(dice: random.Random, generation: int) -> Scores:
    gain = 0.12 * (1 - 0.97 ** max(0, generation))
    scores: list[Score] = []
    means: list[Score] = []
    for role in ("gate", "report"):
        for protocol, down in (("probe", 0.0), ("fewshot", 0.05)):
            group = [_score(0.5 + 0.04 * place - down + gain + dice.gauss(0, 0.004), role, protocol, task)
                     for place, task in enumerate(TASKS)]  # fmt: skip
            means.append(_score(sum(s.mean for s in group) / len(group), role, protocol, None))
            scores += group
    return Scores(suite=hashlib.sha256(b"suite").hexdigest(), weights_sha256=sha(generation), tasks=tuple(scores),
                  means=tuple(means))  # fmt: skip


def _score(mean: float, role: str, protocol: str, task: str | None) -> Score:
    values = {"mean": round(mean, 5), "low": round(mean - 0.02, 5), "high": round(mean + 0.02, 5), "role": role}
    return Score.model_validate(values | {"protocol": protocol, "task": task, "examples": 1000, "per_seed": [mean] * 3})
