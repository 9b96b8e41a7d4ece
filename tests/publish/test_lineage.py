"""The lineage grows by one attempt at a time, keeps its order, and stays small; the golden one is what it says."""

from __future__ import annotations

import json
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hub_fusion.errors import RecordError, RepoMissing
from hub_fusion.publish.lineage import append, read_lineage, root_index
from hub_fusion.recipe import Recipe
from hub_fusion.records import Attempt, Credit, Difference, Generation, Index, Score, Scores, Status, attempt_id

GOLDEN = Path(__file__).parents[1] / "golden"
SCHEMAS = Path(__file__).parents[2] / "hub_fusion" / "schemas"
LINEAGE = GOLDEN / "lineage" / "fusion"
START = datetime(2026, 1, 1, tzinfo=UTC)
RECORDS: dict[str, type[Index | Generation | Attempt | Status]] = {
    "index": Index,
    "generation": Generation,
    "attempt": Attempt,
    "status": Status,
}


def sha(n: int) -> str:
    """The commit of generation n."""
    return f"{n:040x}"


def scores(seed: int = 1, suite: str = "s" * 64) -> Scores:
    """Means of two roles under two protocols, with all the digits that floats have."""
    means = [
        Score(mean=0.7 + seed / 3e4, low=0.69 + seed / 3e4, high=0.71 + seed / 3e4, role=role, protocol=protocol,
              examples=8000, per_seed=(0.1234567, 0.2345678, 0.3456789))
        for role in ("gate", "report") for protocol in ("probe", "fewshot")
    ]  # fmt: skip
    return Scores(suite=suite, weights_sha256="0" * 64, means=tuple(means))


def attempt(number: int | None, parent: int | None, **changes: Any) -> Attempt:
    """An attempt with 2 contributions; a rejected one if `number` is None. `salt` makes its id its own."""
    salt = changes.pop("salt", "")
    values = {
        "id": attempt_id(sha(parent or 0), f"recipe{salt}", "suite", [str(number)]),
        "status": "rejected" if number is None else "published",
        "generation": number,
        "base": "acme/base",
        "root": "root/model",
        "parent_generation": parent,
        "parent_revision": sha(parent or 0),
        "created_at": START + timedelta(days=number or 0),
        "contributions": [
            Credit(repo=f"{name}/m", sha="a" * 40, relation="finetune", author=name) for name in ("alice", "bob")
        ],
        "candidate_scores": scores(number or 0),
        "parent_scores": scores((number or 1) - 1),
    }
    return Attempt.model_validate(values | changes)


def chain(length: int) -> Index:
    """A lineage of `length` generations after gen-0."""
    index = None
    for n in range(1, length + 1):
        index = append(index, attempt(n, n - 1), revisions={k: sha(k) for k in range(n)})
    assert index is not None
    return index


def golden_files() -> list[tuple[str, Path]]:
    """(name of the record, path) of everything in the golden lineage."""
    found = [("index", LINEAGE / "index.json"), ("status", LINEAGE / "status.json")]
    found += [("generation", path) for path in sorted(LINEAGE.glob("gen-*.json"))]
    return found + [("attempt", path) for path in sorted(LINEAGE.glob("attempts/*.json"))]


def test_the_first_attempt_starts_a_lineage_at_gen_0() -> None:
    index = append(None, attempt(1, 0), revisions={})
    assert (index.base, index.root) == ("acme/base", "root/model")
    root, first = index.entries
    assert (root.status, root.generation, root.tag, root.revision) == ("root", 0, "gen-0", sha(0))
    assert root.scores == tuple(s.model_copy(update={"per_seed": ()}) for s in scores(0).means)
    assert root.suite == scores().suite
    assert (first.status, first.tag, first.revision, first.authors) == ("published", "gen-1", None, ("alice", "bob"))


def test_a_root_record_is_an_entry_of_its_own() -> None:
    root = Generation(id="0" * 64, status="root", generation=0, base="a/b", created_at=START)
    index = append(None, root, revisions={0: sha(7)})
    assert [(e.status, e.tag, e.revision) for e in index.entries] == [("root", "gen-0", sha(7))]
    assert append(index, attempt(1, 0), revisions={}).entries[0].revision == sha(7)


def test_scores_of_gen_0_come_from_the_first_attempt_alone() -> None:
    """A later attempt from gen-0, after a rollback say, may have another suite."""
    index = append(root_index("acme/base", None, sha(0), START), attempt(None, 0, salt="x"), revisions={})
    assert index.entries[0].scores
    later = append(index, attempt(1, 0, parent_scores=scores(99, suite="other")), revisions={})
    assert later.entries[0] == index.entries[0]
    unmeasured = append(None, attempt(1, 0, parent_scores=None), revisions={})
    assert unmeasured.entries[0].scores == ()


def test_revisions_are_filled_in_from_tags() -> None:
    """A commit cannot hold its own name, so the next one writes it down."""
    index = chain(3)
    assert [e.revision for e in index.entries] == [sha(0), sha(1), sha(2), None]
    index = append(index, attempt(4, 3), revisions={3: sha(33), 1: sha(11)})
    assert [e.revision for e in index.entries] == [sha(0), sha(11), sha(2), sha(33), None]
    with pytest.raises(RecordError, match="tag gen-4 is at 'main'"):
        append(index, attempt(5, 4), revisions={4: "main"})


def test_everybody_whose_work_is_in_a_generation_is_counted() -> None:
    """An entry names 20 authors at most; nobody is forgotten for that. A rejected attempt counts for nobody."""
    index = append(chain(2), attempt(None, 2, salt="x"), revisions={})
    assert index.contributors == {"alice": 2, "bob": 2}


def test_rejected_attempts_keep_their_place() -> None:
    index = chain(1)
    index = append(index, attempt(None, 1, salt="a"), revisions={1: sha(1)})
    index = append(index, attempt(None, 1, salt="b"), revisions={})
    index = append(index, attempt(2, 1), revisions={})
    assert [e.generation for e in index.entries] == [0, 1, None, None, 2]
    assert [e.status for e in index.entries] == ["root", "published", "rejected", "rejected", "published"]
    assert index.newest is not None
    assert index.newest.generation == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (attempt(2, 1), "is in the lineage of acme/base already; the same attempt"),
        (attempt(2, 1, salt="new"), "gen-2 is in the lineage of acme/base already; numbers"),
        (attempt(0, None, salt="new"), "gen-0 is in the lineage"),
        (attempt(4, 2), "gen-4 leaves a gap in the lineage of acme/base: the next generation is gen-3"),
        (attempt(3, 3), "starts from gen-3, which is not in the lineage"),
        (attempt(None, 7), "starts from gen-7"),
        (attempt(None, 2, status="published"), "is published but its generation is None"),
        (attempt(3, 2, status="rejected"), "is rejected but its generation is 3"),
    ],
)
def test_what_does_not_continue_the_lineage_is_refused(record: Attempt, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        append(chain(2), record, revisions={})


def test_a_lineage_cannot_start_in_the_middle() -> None:
    with pytest.raises(RecordError, match="a lineage starts at gen-0"):
        append(None, attempt(5, 4), revisions={})
    with pytest.raises(RecordError, match="leaves a gap"):
        append(None, attempt(5, 0), revisions={})


def test_append_leaves_its_argument_alone() -> None:
    index = chain(2)
    before = index.to_json()
    append(index, attempt(3, 2), revisions={0: sha(9), 2: sha(8)})
    assert index.to_json() == before


@given(st.lists(st.booleans(), max_size=25), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_any_history_reads_back_and_keeps_its_order(published: list[bool], back: int) -> None:
    """Whatever is published or rejected, from whichever parent: numbers count up and JSON gives the same index."""
    index, newest = root_index("acme/base", None, sha(0), START), 0
    for place, good in enumerate(published):
        number = newest + 1 if good else None
        index = append(index, attempt(number, max(0, newest - back), salt=str(place)), revisions={newest: sha(newest)})
        newest += good
    assert [e.generation for e in index.entries if e.generation is not None] == list(range(newest + 1))
    assert [e.generation is not None for e in index.entries[1:]] == published
    assert Index.from_json(index.to_json()) == index
    assert all(e.revision for e in index.generations[:-1])


def test_200_generations_of_50_contributions_stay_below_200_kB() -> None:
    """Two roles × two protocols with intervals and differences, 50 authors a round, a rejected attempt every eighth."""
    estimate = {"mean": 0.01234567891, "low": -0.00123456789, "high": 0.0234567891}
    differences = [
        Difference.model_validate(estimate | {"role": r, "protocol": p})
        for r in ("gate", "report") for p in ("probe", "fewshot")
    ]  # fmt: skip
    people = [Credit(repo="x/m", sha="a" * 40, relation="finetune", author=f"author-{n:04}") for n in range(400)]
    index = None
    for n in range(1, 201):
        credits = [people[(n * 7 + i) % len(people)] for i in range(50)]
        more: dict[str, Any] = {"contributions": credits, "differences": differences}
        reason = "gate mean 74.2 against 73.4 of the parent and 73.4 of the best; within the allowed loss of 2.0 points"
        numbers = {"step": 1, "candidate": 0.7, "parent": 0.7, "best": 0.7, "epsilon": 0.02}
        more["verdict"] = numbers | {"accepted": True, "reason": reason}
        index = append(index, attempt(n, n - 1, **more), revisions={n - 1: sha(n - 1)})
        if n % 8 == 0:
            index = append(index, attempt(None, n, salt=str(n), **more), revisions={n: sha(n)})
    assert index is not None
    assert len(index.to_json().encode()) < 200_000
    assert [e.generation for e in index.generations] == list(range(201))
    assert all(len(e.scores) == 4 and e.revision for e in index.generations)
    newest = index.entries[-20:]
    assert all(len(e.authors) == 20 and len(e.differences) == 4 and e.reason for e in newest)
    assert {e.status for e in newest} == {"published", "rejected"}
    assert len(index.contributors) == len(people)
    assert sum(index.contributors.values()) == 200 * 50


def test_numbers_are_rounded_and_seeds_left_out() -> None:
    text = append(None, attempt(1, 0), revisions={}).to_json()
    assert '"per_seed"' not in text
    assert '"task"' not in text
    assert len(text) < 2500
    assert text.count("\n") == 3, "one entry on a line"


class Folder:
    """A Hub that is a folder, for reading."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def read_text(self, repo: str, path: str, *, revision: str) -> str:
        """The file, or RepoMissing."""
        self.asked.append(f"{repo}@{revision}")
        try:
            return (self.folder / path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RepoMissing(f"{repo}/{path} is not there") from None


def test_read_lineage_reads_the_index(tmp_path: Path) -> None:
    hub = Folder(GOLDEN / "lineage")
    assert [e.tag for e in read_lineage(hub, "acme/roberta-fused").generations] == ["gen-0", "gen-1", "gen-2", "gen-3"]
    read_lineage(hub, "acme/roberta-fused", "gen-3")
    assert hub.asked == ["acme/roberta-fused@main", "acme/roberta-fused@gen-3"]
    with pytest.raises(RepoMissing):
        read_lineage(Folder(tmp_path), "a/b")
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion/index.json").write_text("{}")
    with pytest.raises(RecordError, match=r"a/b/fusion/index.json is not a Index: base: Field required"):
        read_lineage(Folder(tmp_path), "a/b")


def test_the_script_reproduces_the_golden_lineage() -> None:
    """Run ``python tests/golden/make_lineage.py`` after a change of the records."""
    made = runpy.run_path(str(GOLDEN / "make_lineage.py"))["files"]()
    there = {str(p.relative_to(GOLDEN / "lineage")): p.read_text(encoding="utf-8") for _, p in golden_files()}
    assert made == there
    assert len(list((GOLDEN / "lineage").rglob("*.json"))) == len(there) == 6


@pytest.mark.parametrize(("name", "path"), golden_files(), ids=lambda value: getattr(value, "name", value))
def test_golden_files_fit_records_and_schemas(name: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    record = RECORDS[name].from_json(text, source=path.name)
    assert json.loads(record.to_json()) == json.loads(text), "nothing is lost or added in reading"
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads(text))


def test_the_golden_lineage_is_consistent() -> None:
    """What a reader may rely on holds: chain, intervals, shares, ids, verdicts."""
    index = Index.from_json((LINEAGE / "index.json").read_text())
    status = Status.from_json((LINEAGE / "status.json").read_text())
    generations = [Generation.from_json((LINEAGE / f"gen-{n}.json").read_text()) for n in (1, 2, 3)]
    rejected = [Attempt.from_json(p.read_text()) for p in LINEAGE.glob("attempts/*.json")]
    assert [e.tag for e in index.entries] == ["gen-0", "gen-1", "gen-2", None, "gen-3"]
    assert [a.id for a in rejected] == [e.id for e in index.entries if e.status == "rejected"]
    assert [LINEAGE / f"attempts/{a.id}.json" for a in rejected] == list(LINEAGE.glob("attempts/*.json"))
    by_number = {e.generation: e for e in index.generations}
    for record in [*generations, *rejected, *status.rejected]:
        parent = by_number[record.parent_generation]
        assert parent.revision in (record.parent_revision, None)
        assert record.candidate_scores and record.parent_scores and record.verdict
        recipe = Recipe.from_text(record.recipe)
        shas = [c.sha for c in record.contributions]
        suite = record.candidate_scores.suite
        assert record.id == attempt_id(record.parent_revision or "", recipe.decisive(), suite, shas)
        assert sum(c.weight or 0 for c in record.contributions) == pytest.approx(1, abs=1e-6)
        assert [c.key for c in record.contributions] == sorted(c.key for c in record.contributions)
        measured = [*record.candidate_scores.tasks, *record.candidate_scores.means, *record.differences]
        assert all(m.low <= m.mean <= m.high for m in measured)
        assert record.verdict.accepted == (record.generation is not None)
        assert record.verdict.accepted == (record.verdict.candidate >= record.verdict.parent - record.verdict.epsilon)
    for child, parent_record in zip(generations[1:], generations[:-1], strict=True):
        assert child.parent_scores == parent_record.candidate_scores
    assert all(s.low <= s.mean <= s.high for e in index.entries for s in (*e.scores, *e.differences))
    assert any(c.clipped for g in generations for c in g.contributions)
    assert any(c.relation == "adapter" for g in generations for c in g.contributions)
    assert (len(status.queue), len(status.refusals), len(status.rejected)) == (2, 1, 1)
    assert status.rejected[0].parent_generation == status.generation == 3
