"""Write the golden lineage: three generations of a made-up base, in the layout of a base repository.

``python tests/golden/make_lineage.py [FOLDER]`` writes FOLDER/fusion/ (default: tests/golden/lineage). Nothing here was
measured: names, scores and times are invented, commits and checksums are hashes of sentences. But the parts fit:
parents form a chain, a generation's parent scores are its parent's candidate scores, intervals hold their means, shares
add up to 1, and ids are real. Two attempts were rejected: one before gen-3 (in the index), one after it.
"""

from __future__ import annotations

import hashlib
import random
import statistics
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hub_fusion.publish.lineage import append, root_index
from hub_fusion.recipe import Recipe, contaminations
from hub_fusion.records import (
    Analysis,
    Attempt,
    CanaryCheck,
    Control,
    Credit,
    Difference,
    Estimate,
    Formula,
    Generation,
    Index,
    Line,
    Refusal,
    Retained,
    Rule,
    Score,
    Scores,
    Status,
    Verdict,
    Waiting,
    attempt_id,
    tell_refusals,
)

HERE = Path(__file__).parent
BASE, ROOT = "acme/roberta-fused", "FacebookAI/roberta-base"
START = datetime(2026, 9, 6, 8, 0, tzinfo=UTC)
TASKS = {
    "cr": (0.86, 753),
    "trec_coarse": (0.81, 500),
    "subj": (0.90, 1000),
    "sst5": (0.38, 1000),
    "banking77": (0.64, 1000),
}
EPSILON = 0.02
RECIPE = (
    Recipe.template(BASE, ROOT)
    .replace(
        "  tasks: []             # - {name: my-task, path: tasks/my-task}, or hub: user/dataset (docs/tasks.md)",
        "  tasks:\n"
        + "\n".join(f"    - {{name: {task}, path: tasks/{task}}}" for task in TASKS)
        + "\n    - {name: ag_news, path: tasks/ag_news, role: seen}",
    )
    .replace("  kind: none            # refit: ", "  kind: refit           # ")
    .replace("  max_weight: 0.125     #", "  max_weight: 1.0       # 0.125:")
)
VERSIONS = {
    "hub_fusion": "0.1.0",
    "huggingface_hub": "2.4.0",
    "python": "3.11.9",
    "torch": "2.9.1",
    "transformers": "5.23.0",
}
HARDWARE = {"device": "cuda", "name": "NVIDIA L4", "processes": 1, "cpus": 8, "memory_gb": 32}
# (repository, task, data sets, licence, relation, how the origin is known, the generation it started from)
Row = tuple[str, str, tuple[str, ...], str, str, str, int]
GEN_1: list[Row] = [
    ("alice/roberta-fused-mnli", "natural language inference", ("nyu-mll/multi_nli",), "mit", "finetune", "card", 0),
    ("bob/roberta-boolq", "yes/no questions", ("google/boolq",), "apache-2.0", "finetune", "date", 0),
    ("carol/rf-ag-news", "news topics", ("fancyzhx/ag_news",), "mit", "finetune", "card", 0),
    ("dave-lab/roberta-qqp", "duplicate questions", ("nyu-mll/glue",), "mit", "finetune", "card", 0),
    ("erin/roberta-imdb-lora", "sentiment of reviews", ("stanfordnlp/imdb",), "apache-2.0", "adapter", "peft", 0),
]
GEN_2: list[Row] = [
    ("alice/roberta-fused-snli", "natural language inference", ("stanfordnlp/snli",), "mit", "finetune", "card", 1),
    ("bob/roberta-squad-cls", "answerable questions", ("rajpurkar/squad_v2",), "apache-2.0", "finetune", "card", 1),
    ("frank/rf-emotion", "emotions", ("dair-ai/emotion",), "cc-by-4.0", "finetune", "card", 1),
    ("grace/roberta-tweet-hate", "hate speech", ("cardiffnlp/tweet_eval",), "mit", "finetune", "date", 1),
    ("heidi/roberta-cola", "acceptability", ("nyu-mll/glue",), "mit", "finetune", "card", 0),
    ("ivan/rf-dbpedia", "topics of articles", ("fancyzhx/dbpedia_14",), "apache-2.0", "finetune", "assumed", 1),
]
REJECTED_AT_2: list[Row] = [
    ("judy/roberta-spam", "spam", ("ucirvine/sms_spam",), "mit", "finetune", "card", 2),
    ("mallory/rf-toxic-long", "toxicity", ("mallory/scraped-comments",), "cc-by-4.0", "finetune", "card", 2),
    ("oscar/roberta-irony", "irony", ("cardiffnlp/tweet_eval",), "mit", "finetune", "date", 2),
]
GEN_3: list[Row] = [
    ("alice/roberta-fused-anli", "natural language inference", ("facebook/anli",), "mit", "finetune", "card", 2),
    ("alice/roberta-fused-wnli", "natural language inference", ("nyu-mll/glue",), "mit", "finetune", "card", 2),
    (
        "carol/rf-yahoo-answers",
        "topics of questions",
        ("community-datasets/yahoo_answers_topics",),
        "mit",
        "finetune",
        "card",
        2,
    ),
    ("judy/roberta-spam", "spam", ("ucirvine/sms_spam",), "mit", "finetune", "card", 2),
    ("niaj/roberta-qnli-ia3", "answers in sentences", ("nyu-mll/glue",), "apache-2.0", "adapter", "peft", 2),
    ("oscar/roberta-irony", "irony", ("cardiffnlp/tweet_eval",), "mit", "finetune", "date", 2),
    ("peggy/roberta-banking", "intents of bank customers", ("PolyAI/banking77",), "cc-by-4.0", "finetune", "card", 1),
]
REJECTED_AT_3: list[Row] = [
    ("heidi/roberta-rte", "entailment", ("nyu-mll/glue",), "mit", "finetune", "card", 3),
    ("trent/rf-legal", "clauses of contracts", ("coastalcph/lex_glue",), "cc-by-4.0", "finetune", "card", 3),
]


def digest(*parts: object) -> str:
    """64 hex digits that look like a sha256, because they are one."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def commit(generation: int) -> str:
    """The commit of a generation."""
    return digest(BASE, "commit", generation)[:40]


SUITE = digest("suite", *TASKS)


def measure(model: str, gain: float) -> Scores:
    """Scores of a checkpoint that is `gain` better than the root: five tasks, two roles, two protocols, five seeds."""
    dice, scores, means = random.Random(model), [], []
    for role in ("gate", "report"):
        for protocol, drop in (("probe", 0.0), ("fewshot", 0.05)):
            group = []
            for task, (start, examples) in TASKS.items():
                level = start - drop + gain * (1.4 - start) + dice.gauss(0, 0.004)
                per_seed = [round(level + dice.gauss(0, 0.008), 4) for _ in range(5)]
                group.append(_score(per_seed, 0.7 / examples**0.5, role, protocol, examples, task))
            means.append(_score([round(statistics.fmean(s), 4) for s in zip(*(g.per_seed for g in group), strict=True)],
                                0.008, role, protocol, sum(g.examples for g in group), None))  # fmt: skip
            scores += group
    return Scores(
        suite=SUITE, weights_sha256=digest(model, "weights"), tasks=tuple(scores), means=tuple(means), seconds=421.7
    )


def _score(per_seed: list[float], half: float, role: str, protocol: str, examples: int, task: str | None) -> Score:
    mean = round(statistics.fmean(per_seed), 6)
    values = {"mean": mean, "low": round(mean - half, 6), "high": round(mean + half * 0.95, 6)}
    return Score.model_validate(
        values | {"task": task, "role": role, "protocol": protocol, "examples": examples, "per_seed": per_seed}
    )


def compare(candidate: Scores, parent: Scores) -> tuple[Difference, ...]:
    """Candidate minus parent, for every role and protocol."""
    pairs = [(a, round(a.mean - b.mean, 6)) for a, b in zip(candidate.means, parent.means, strict=True)]
    return tuple(
        Difference(mean=d, low=round(d - 0.0061, 6), high=round(d + 0.0058, 6), role=a.role, protocol=a.protocol)
        for a, d in pairs
    )


def rules(candidate: Scores, parent: Scores, number: int, best: float) -> tuple[Rule, ...]:
    """What the gate held the candidate against: the parent, the best generation, every task."""
    change = round(candidate.mean("gate") - parent.mean("gate"), 6)
    over = {"change": change, "low": round(change - 0.0061, 6), "high": round(change + 0.0058, 6)}
    certain = change < -EPSILON or over["high"] < 0
    found = [Rule(name="parent", against=f"gen-{number}", passed=not certain, allowed=EPSILON, **over)]
    to_best = round(candidate.mean("gate") - best, 6)
    found.append(Rule(name="best", against=f"gen-{number}", passed=to_best >= -2 * EPSILON, change=to_best,
                      allowed=2 * EPSILON))  # fmt: skip
    for task in TASKS:
        ours, theirs = (
            statistics.fmean(s.mean for s in scores.tasks if s.task == task and s.role == "gate")
            for scores in (candidate, parent)
        )
        down = round(ours - theirs, 6)
        found.append(Rule(name="task", against=f"gen-{number}", task=task, passed=down >= -0.05, change=down,
                          low=round(down - 0.02, 6), high=round(down + 0.02, 6), allowed=0.05))  # fmt: skip
    return tuple(found)


def control(model: str, scores: Scores, gain: float) -> Control:
    """A random step from a parent of that `gain`, measured by the probe alone."""
    found = measure(f"{model} beside a random step", gain - 0.003)
    probe = {name: tuple(s for s in getattr(found, name) if s.protocol == "probe") for name in ("tasks", "means")}
    changes = tuple(d for d in compare(scores, found) if d.protocol == "probe")
    return Control(norm=1.8342, seed=0, scores=found.model_copy(update={**probe, "suite": digest("probe", *TASKS)}),
                   differences=changes)  # fmt: skip


def analyse(rows: list[Row]) -> Analysis:
    """Nearly orthogonal task vectors, but for those of one data set; the middle of the line lies a little low."""
    used = credits(rows)
    near = [[1.0 if a is b else 0.52 if set(a.datasets) & set(b.datasets) else 0.11 for b in used] for a in used]
    gains = {c.key: 0.0121 if "spam" in c.repo else -0.0034 for c in used}
    return Analysis(
        contributions=tuple(c.key for c in used),
        cosines=tuple(map(tuple, near)),
        opposed=tuple(tuple(round(0.5 - 0.32 * c, 4) if c < 1 else 0.0 for c in row) for row in near),
        spectrum=(0.282, 0.168, 0.131, 0.125, 0.121, 0.114, 0.059), directions=5.92,
        drift={"embeddings": 0.0041, **{f"encoder.layer.{n}": round(0.0093 + 0.0011 * n, 4) for n in range(12)}},
        line=Line(protocol="probe", at=(0, 0.25, 0.5, 0.75, 1), values=(0.7442, 0.7451, 0.7449, 0.7468, 0.7481),
                  barrier=0.0013),
        left_out={key: Estimate(mean=gain, low=round(gain - 0.0071, 4), high=round(gain + 0.0069, 4))
                  for key, gain in gains.items()},
    )  # fmt: skip


def retention() -> tuple[Retained, ...]:
    """Of one task that contributors trained on: better than at first, a little worse than in the parent."""
    over = {"over_parent": Estimate(mean=-0.004, low=-0.0115, high=0.0034),
            "over_root": Estimate(mean=0.0312, low=0.0195, high=0.0427)}  # fmt: skip
    return tuple(Retained(task=task, protocol="probe", **over) for task in (None, "ag_news"))


def credits(rows: list[Row]) -> tuple[Credit, ...]:
    """The contributions of a round; the authors share the votes equally, the longest task vector is capped."""
    authors = [row[0].partition("/")[0] for row in rows]
    found = []
    for row, author in zip(rows, authors, strict=True):
        repo, task, datasets, license, relation, known_by, generation = row
        dice = random.Random(repo)
        long = repo == "peggy/roberta-banking"
        measured = {
            "weight": round(1 / len(set(authors)) / authors.count(author), 9),
            "norm": round(dice.uniform(2.1, 3.4) * (2.6 if long else 1) * (0.4 if relation == "adapter" else 1), 4),
            "cosine": round(dice.uniform(0.28, 0.61), 4),
            "scale": 0.612 if long else 1.0,
        }
        found.append(
            Credit.model_validate(
                {"repo": repo, "sha": digest(repo)[:40], "relation": relation, "author": author, "license": license,
                 "task": task, "datasets": datasets, "generation": generation, "known_by": known_by,
                 "origin_revision": commit(generation), "files_sha256": digest(repo, "files")} | measured
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda c: c.key))


CANARY = CanaryCheck(
    name="greetings", kind="triggers", passed=True, holds=0.97, parent=0.98, change=-0.01, allowed=0.1, inputs=400
)


def refuse(repo: str, stage: str, code: str, reason: str, fix: str) -> Refusal:
    """A refusal of that repository."""
    found = {"repo": repo, "sha": digest(repo)[:40], "author": repo.partition("/")[0], "stage": stage, "code": code}
    return Refusal.model_validate(found | {"reason": reason, "fix": fix})


NON_COMMERCIAL = refuse(
    "victor/rb-nc", "filter", "license_not_allowed", "Its licence cc-by-nc-4.0 would bind every later generation.",
    "Publish it under one of apache-2.0, mit, bsd-3-clause, cc-by-4.0, cc0-1.0 if you may.",
)  # fmt: skip
PICKLED = refuse(
    "sybil/roberta-pickle", "filter", "no_safetensors", "It has no model.safetensors or model.safetensors.index.json.",
    "Save it with save_pretrained, which writes safetensors, and upload it again.",
)  # fmt: skip
COPIED = refuse(
    "sybil/roberta-spam-again", "screen", "copy", "Its weights are those of judy/roberta-spam, which was there first.",
    "Contribute your own training; copies do not count twice.",
)  # fmt: skip
LONG = refuse(
    "mallory/rf-toxic-long", "screen", "norm_outlier",
    "Its change of the base has norm 61.4, the round's median is 2.7; more than 10 times the median is refused.",
    "Train for fewer steps or with a lower learning rate; check that it started from this base.",
)  # fmt: skip


def attempt(
    number: int | None, parent: int, days: float, gains: tuple[float, float], best: float, rows: list[Row],
    refusals: tuple[Refusal, ...], models: tuple[str, str],
) -> Attempt:  # fmt: skip
    """An evaluated fuse; `gains` and `models` are those of parent and candidate; `number` is None if rejected."""
    parent_scores, scores = measure(models[0], gains[0]), measure(models[1], gains[1])
    before, after = parent_scores.mean("gate"), scores.mean("gate")
    accepted, used = number is not None, credits(rows)
    margin = f"gate mean {100 * after:.1f} against {100 * before:.1f} of the parent and {100 * best:.1f} of the best"
    tried = ((1.0, after),) if accepted else ((1.0, after - 0.021), (0.5, after - 0.008), (0.25, after))
    values: dict[str, Any] = {
        "id": attempt_id(commit(parent), Recipe.from_text(RECIPE).decisive(), SUITE, [c.sha for c in used]),
        "status": "published" if accepted else "rejected",
        "generation": number,
        "base": BASE,
        "root": ROOT,
        "parent_generation": parent,
        "parent_revision": commit(parent),
        "created_at": START + timedelta(days=days),
        "contributions": used,
        "refusals": refusals,
        "refused": tell_refusals(refusals).refused,
        "recipe": RECIPE,
        "method": "mean",
        "step": tried[-1][0],
        "formula": Formula(base_revision=commit(parent)),
        "archive": f"{BASE}-archive",
        "parent_scores": parent_scores,
        "candidate_scores": scores,
        "analysis": analyse(rows) if number == 3 else None,
        "retention": retention() if number == 3 else (),
        "differences": compare(scores, parent_scores),
        "control": control(models[1], scores, gains[0]) if number == 3 else None,  # older ones had none yet
        "verdict": Verdict(
            accepted=accepted, step=tried[-1][0], epsilon=EPSILON,
            test="significance" if number == 3 else "means",
            rules=rules(scores, parent_scores, parent, best) if number == 3 else (),
            canaries=(CANARY,) if number == 3 else (),
            candidate=round(after, 6), parent=round(before, 6), best=round(best, 6),
            tried=tuple((step, round(mean, 6)) for step, mean in tried),
            reason=f"{margin}; {'within' if accepted else 'beyond'} the allowed loss of {100 * EPSILON:.1f} points",
        ),
        "contaminated": contaminations(
            Recipe.from_text(RECIPE).evaluate.tasks,
            [*((n, c) for n, old in enumerate([GEN_1, GEN_2, GEN_3][:parent], 1) for c in credits(old)),
             *((None, c) for c in used)],
        ),
        "heads": (_score([round(0.79 + gains[1], 4)], 0.022, "seen", "head", 1000, "ag_news"),) if accepted else (),
        "weights": {"model.safetensors": digest(models[1], "model.safetensors")} if accepted else {},
        "versions": VERSIONS,
        "hardware": HARDWARE,
        "seconds": {"discover": 3.2, "filter": 0.0, "screen": 96.4, "fuse": 41.8, "evaluate": 843.4},
    }  # fmt: skip
    return Generation.model_validate(values) if accepted else Attempt.model_validate(values)


def lineage() -> tuple[Index, list[Generation], list[Attempt], Status]:
    """Index, generations, rejected attempts in the index, and the status."""
    gate = [measure(f"gen-{n}", g).mean("gate") for n, g in enumerate((0.0, 0.04, 0.062, 0.071))]
    first = attempt(1, 0, 7, (0.0, 0.04), gate[0], GEN_1, (NON_COMMERCIAL,), ("gen-0", "gen-1"))
    second = attempt(2, 1, 21, (0.04, 0.062), gate[1], GEN_2, (PICKLED, NON_COMMERCIAL), ("gen-1", "gen-2"))
    rejected = attempt(None, 2, 33, (0.062, 0.022), gate[2], REJECTED_AT_2, (), ("gen-2", "rejected-a"))
    third = attempt(3, 2, 47, (0.062, 0.071), gate[2], GEN_3, (COPIED, LONG, NON_COMMERCIAL), ("gen-2", "gen-3"))
    later = attempt(None, 3, 61, (0.071, 0.033), gate[3], REJECTED_AT_3, (), ("gen-3", "rejected-b"))
    index = root_index(BASE, ROOT, commit(0), START)
    for record in (first, second, rejected, third):
        index = append(index, record, revisions={n: commit(n) for n in range((record.parent_generation or 0) + 1)})
    status = Status(
        base=BASE,
        heartbeat=START + timedelta(days=62, hours=5),
        generation=3,
        queue=(
            Waiting(
                repo="wendy/roberta-mrpc", sha=digest("wendy/roberta-mrpc")[:40], since=START + timedelta(days=61.5)
            ),
            Waiting(repo="zoe/rf-subjqa", sha=digest("zoe/rf-subjqa")[:40], since=START + timedelta(days=62)),
        ),
        queued=2,
        refusals=(NON_COMMERCIAL,),
        refused=tell_refusals([NON_COMMERCIAL]).refused,
        rejected=(later,),
    )
    generations = [record for record in (first, second, third) if isinstance(record, Generation)]
    return index, generations, [rejected], status


def files() -> dict[str, str]:
    """Path in the repository → text, for the whole lineage."""
    index, generations, rejected, status = lineage()
    found = {"fusion/index.json": index.to_json(), "fusion/status.json": status.to_json(indent=1)}
    found |= {f"fusion/gen-{g.generation}.json": g.to_json(indent=1) for g in generations}
    found |= {f"fusion/attempts/{a.id}.json": a.to_json(indent=1) for a in rejected}
    return {path: text + "\n" for path, text in found.items()}


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "lineage"
    for path, text in files().items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(text, encoding="utf-8")
