"""The dashboard reads what a lineage holds, entry by entry, and trusts none of it."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dashboards import BASE, GOLDEN, NOW, Files, upload
from fields import Malformed, read_json
from hypothesis import given, settings
from hypothesis import strategies as st
from lineage import Attempt, Record, Score, Status, Unreadable
from pages import draw
from pages.contribute import look_up
from parsing import read_index, read_record, read_status
from query import Query
from reader import Data, Reader
from view import View

from hub_fusion.local_hub import LocalHub

SPACE = Path(__file__).parents[2] / "spaces" / "dashboard"


def read(files: Files, folder: Path) -> Data:
    """The files as the dashboard sees them."""
    data = Reader(BASE, "https://hub.example", snapshot=files.write(folder)).data
    assert data.read_at is not None, "the snapshot was refused as a whole"
    return data


def test_the_golden_lineage_is_read_whole(golden: Files, tmp_path: Path) -> None:
    """Five attempts of the index, one more in the status; every number is the file's."""
    data = read(golden, tmp_path)
    assert [a.name for a in data.attempts if isinstance(a, Attempt)] == [
        "gen-0", "gen-1", "gen-2", "rejected attempt", "gen-3", "rejected attempt"]  # fmt: skip
    newest = data.generations[-1]
    assert (newest.contributions, newest.refusals, newest.parent) == (7, 3, 2)
    assert newest.scores["gate", "probe"].mean == 0.7684
    record = data.records[3]
    assert isinstance(record, Record)
    assert [c.repo for c in record.credits] == [c["repo"] for c in golden.records[3]["contributions"]]
    assert [r.fix for r in record.refusals] == [r["fix"] for r in golden.records[3]["refusals"]]
    assert record.unreadable == 0
    assert isinstance(data.status, Status)
    assert (data.status.queue, len(data.status.rejected)) == (2, 1)


def test_a_rejected_attempt_of_the_status_is_shown_once(golden: Files, tmp_path: Path) -> None:
    """The next generation's commit moves it into the index; the status may still hold it then."""
    golden.index["entries"].append(golden.status["rejected"][0] | {"contributions": 2, "refusals": 0})
    assert len(read(golden, tmp_path).attempts) == 6


SPOILT: list[tuple[str, Any, str]] = [
    ("status", "splendid", "status"),
    ("status", "rejected", "generation"),
    ("generation", "3", "whole number"),
    ("generation", True, "whole number"),
    ("generation", -1, "whole number"),
    ("created_at", "yesterday", "date"),
    ("created_at", None, "date"),
    ("revision", "main", "40 hex"),
    ("reason", {"$": 1}, "not text"),
    ("authors", "alice", ""),
    ("contributions", [1], "whole number"),
    ("step", "1", "not a number"),
    ("scores", {"mean": 1}, "not a list"),
    ("scores", [7], "not an object"),
    ("scores", [{"role": "gate", "protocol": "probe", "mean": 76.84, "low": 76, "high": 77}], "≤ 1"),
    ("scores", [{"role": "gate", "protocol": "probe", "mean": 0.5, "low": 0.6, "high": 0.7}], "low ≤ mean"),
    ("scores", [{"role": "gate", "protocol": "probe", "mean": 0.5, "low": 0.4}], "without"),
    ("scores", [{"role": "gate", "protocol": "probe", "mean": 10**400, "low": 0, "high": 1}], "not a number"),
    ("differences", [{"role": "gate", "protocol": "probe", "mean": -2.0, "low": -3.0, "high": 0.0}], "-1"),
    ("parent_generation", 3, "parent"),
    ("parent_generation", 9, "parent"),
]


@pytest.mark.parametrize(("name", "value", "said"), SPOILT)
def test_one_spoilt_entry_costs_itself_alone(golden: Files, tmp_path: Path, name: str, value: Any, said: str) -> None:
    """It becomes a placeholder that says what is wrong; the other five are there."""
    golden.index["entries"][4][name] = value
    data = read(golden, tmp_path)
    lost = [a for a in data.attempts if isinstance(a, Unreadable)]
    assert len(data.attempts) == 6
    if said:
        assert [said in a.problem for a in lost] == [True], lost
        assert lost[0].name == ("gen-3" if name != "generation" else "attempt 5")
    else:
        assert not lost


@pytest.mark.parametrize("entry", [None, 5, "gen-3", [], {}, math.inf])
def test_an_entry_of_any_kind_is_a_placeholder(golden: Files, entry: Any) -> None:
    """Nothing but an object with the right fields is an attempt."""
    golden.index["entries"][1] = entry
    assert [type(a) for a in read_index(golden.index).attempts].count(Unreadable) == 1


def test_numbers_are_not_used_twice(golden: Files) -> None:
    """The first holder of a number keeps it."""
    golden.index["entries"][4]["generation"] = 2
    found = read_index(golden.index).attempts
    assert isinstance(found[4], Unreadable)
    assert isinstance(found[2], Attempt)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema_version": 2, "entries": []}', "newer dashboard"),
        ('{"schema_version": "1", "entries": []}', "whole number"),
        ("[]", "object"),
        ("", "JSON"),
        ('{"a": NaN}', "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"entries": {}}', "list"),
        ('{"a": ' + "9" * 5000 + "}", "JSON"),
    ],
)
def test_an_index_that_cannot_be_read_says_why(text: str, said: str) -> None:
    """A newer schema asks for a newer dashboard; the rest is named."""
    with pytest.raises(Malformed, match=said):
        read_index(read_json(text))


def test_rows_of_a_record_fail_one_by_one(golden: Files) -> None:
    """A contribution without a name and a refusal that is a number are counted, the others shown."""
    golden.records[3]["contributions"][0]["repo"] = None
    golden.records[3]["refusals"][0] = 5
    golden.records[3]["contributions"][1]["sha"] = "../../evil"
    record = read_record(golden.records[3], 3)
    assert (len(record.credits), len(record.refusals), record.unreadable) == (6, 2, 2)
    assert record.credits[0].sha == ""
    with pytest.raises(Malformed, match="gen-2"):
        read_record(golden.records[3], 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_value_anywhere_breaks_the_reading(data: st.DataObject) -> None:
    """Any JSON in any field gives values or Malformed, never another exception."""
    files = {name: json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("index", "gen-3", "status")}
    for document in files.values():
        spot: Any = document
        while True:
            key = data.draw(st.sampled_from(sorted(spot))) if isinstance(spot, dict) else 0
            if not isinstance(spot[key], (dict, list)) or not spot[key] or data.draw(st.booleans()):
                spot[key] = data.draw(JSON)
                break
            spot = spot[key]
    readers: list[Callable[[], Any]] = [
        lambda: read_index(files["index"]), lambda: read_record(files["gen-3"], 3), lambda: read_status(files["status"])
    ]  # fmt: skip
    for reader in readers:
        try:
            reader()
        except Malformed as error:
            assert str(error)


def test_the_reader_follows_the_hub(golden: Files, hub: LocalHub, acme: Any, tmp_path: Path) -> None:
    """Missing repository, no lineage yet, the lineage, a spoilt record, then a Hub that is gone: data are kept."""
    repo, nothing = "acme/followed", tmp_path / "none.json"
    reader = Reader(repo, hub.url, snapshot=nothing)
    assert not reader.refresh()
    assert "not found" in reader.data.trouble
    acme.create_repo(repo)
    assert reader.refresh()
    assert (reader.data.trouble, reader.data.attempts) == ("", ())
    acme.delete_repo(repo)
    golden.records[2] = {"schema_version": 7}
    upload(acme, repo, golden)
    assert reader.refresh()
    assert len(reader.data.attempts) == 6
    assert isinstance(reader.data.records[3], Record)
    assert isinstance(reader.data.records[2], Unreadable)
    index = b'{"schema_version": 2}'
    acme.upload_file(path_or_fileobj=index, path_in_repo="fusion/index.json", repo_id=repo)
    assert reader.refresh()
    assert "newer dashboard" in reader.data.trouble
    assert len(reader.data.attempts) == 6
    reader.data = replace(reader.data, endpoint="http://127.0.0.1:9")
    assert not reader.refresh()
    assert "does not answer" in reader.data.trouble
    since = reader.data.trouble_since
    assert not reader.refresh()
    assert reader.data.trouble_since == since is not None
    assert len(reader.data.attempts) == 6


def test_what_changes_is_read_again(golden: Files, hub: LocalHub, acme: Any, tmp_path: Path) -> None:
    """A withdrawal changes a record that was read before, and the reason is shown; the others are kept as they were."""
    repo = "acme/withdrawn"
    upload(acme, repo, golden)
    reader = Reader(repo, hub.url, snapshot=tmp_path / "none")
    assert reader.refresh()
    before = reader.data
    golden.records[2] |= {"status": "yanked", "withdrawn": {"reason": "a data leak", "at": "2026-11-08T00:00:00Z"}}
    golden.index["entries"][2]["status"] = "yanked"
    upload(acme, repo, golden)
    assert reader.refresh()
    assert reader.data.records[2].withdrawn == "a data leak"  # type: ignore[union-attr]
    assert reader.data.records[3] is before.records[3]


def test_old_records_are_left_out(golden: Files, hub: LocalHub, acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the newest records; the index still has every attempt."""
    upload(acme, "acme/window", golden)
    monkeypatch.setattr("reader.RECORDS", 2)
    reader = Reader("acme/window", hub.url, snapshot=Path("none"))
    assert reader.refresh()
    assert sorted(reader.data.records) == [2, 3]
    assert [a.name for a in reader.data.generations] == ["gen-0", "gen-1", "gen-2", "gen-3"]


def test_private_bases_need_the_read_token(hub: LocalHub, acme: Any, tmp_path: Path) -> None:
    """Without it they are as good as not there."""
    acme.create_repo("acme/hidden", private=True)
    assert not Reader("acme/hidden", hub.url, snapshot=tmp_path / "none").refresh()
    assert Reader("acme/hidden", hub.url, token=acme.token, snapshot=tmp_path / "none").refresh()


@pytest.mark.parametrize("base", ["", "acme", "acme/a/b", "../etc", "acme/<b>", "a b/c", "acme/x?y"])
def test_a_base_that_is_no_repository_is_never_asked_for(base: str, tmp_path: Path) -> None:
    """The page says what to set instead."""
    reader = Reader(base, "https://hub.example", snapshot=tmp_path / "none")
    reader.start()
    assert reader.first.is_set()
    assert "HUB_FUSION_BASE" in reader.data.trouble


@pytest.mark.parametrize(
    "about",
    ["", "[]", '{"read_at": 1}', '{"base": "acme/other", "read_at": "2026-11-07"}', '{"base": "acme/roberta-fused"}'],
)
def test_a_broken_snapshot_is_no_snapshot(golden: Files, tmp_path: Path, about: str) -> None:
    """Nor is one of another base; the dashboard starts all the same."""
    folder = golden.write(tmp_path)
    (folder / "snapshot.json").write_text(about)
    assert Reader(BASE, "https://hub.example", snapshot=folder).data == Data(BASE, "https://hub.example")
    assert Reader(BASE, "https://hub.example", snapshot=tmp_path / "none").data.read_at is None


def test_a_bad_record_in_the_snapshot_costs_itself_alone(golden: Files, tmp_path: Path) -> None:
    """One is of a newer schema, one is no JSON, one is not there; index, status and the third are."""
    golden.records[1]["schema_version"] = 2
    folder = golden.write(tmp_path)
    (folder / "fusion" / "gen-2.json").write_text("{")
    data = Reader(BASE, "https://hub.example", snapshot=folder).data
    assert "newer dashboard" in data.records[1].problem  # type: ignore[union-attr]
    assert "JSON" in data.records[2].problem  # type: ignore[union-attr]
    assert isinstance(data.records[3], Record)
    assert data.read_at == NOW
    (folder / "fusion" / "gen-3.json").unlink()
    (folder / "fusion" / "status.json").write_text("7")
    data = Reader(BASE, "https://hub.example", snapshot=folder).data
    assert "not there" in data.records[3].problem  # type: ignore[union-attr]
    assert isinstance(data.status, Unreadable)


def test_scores_that_are_hard_to_believe_are_doubted(golden: Files) -> None:
    """They are shown with the reason: a leap, a difference that is not the scores', a parent that is not there."""
    entries = golden.index["entries"]
    assert not any(a.doubts for a in read_index(golden.index).attempts if isinstance(a, Attempt))
    entries[1]["scores"][0] |= {"mean": 0.99, "low": 0.98, "high": 1.0}
    entries[4]["differences"][0] |= {"mean": 0.1, "low": 0.09, "high": 0.11}
    entries[3]["parent_generation"] = 7
    doubts = [a.doubts for a in read_index(golden.index).attempts if isinstance(a, Attempt)]
    assert ["more than one generation" in d[0] if d else False for d in doubts] == [False, True, False, False, False]
    assert "the record says +10.0" in doubts[4][0]
    assert doubts[3] == ("its parent gen-7 is not in the index",)


def test_scores_under_other_tasks_names_are_doubted(golden: Files) -> None:
    """Published tables hold such rows; their means are right, and no bound on one number finds them."""
    record = golden.records[3]
    assert read_record(record, 3).doubts == ()
    tasks = [t for t in record["candidate_scores"]["tasks"] if (t["role"], t["protocol"]) == ("gate", "fewshot")]
    numbers = [{part: t[part] for part in ("mean", "low", "high")} for t in tasks]
    for task, other in zip(tasks, numbers[2:] + numbers[:2], strict=True):
        task |= other
    assert read_record(record, 3).doubts == (
        "fewshot on the gate examples: scores seem to stand under other tasks' names",)  # fmt: skip


def test_recipe_and_path_are_read(golden: Files) -> None:
    """The recipe keeps its indentation and loses what cannot be printed; the path starts at the parent."""
    golden.records[3]["recipe"] = "a:\n  b: 1\u202e  \n" + "x" * 900 + "\n" * 900
    record = read_record(golden.records[3], 3)
    assert record.recipe[:3] == ("a:", "  b: 1", "x" * 200)
    assert len(record.recipe) == 400
    assert record.path == ((0.0, 0.73362), (1.0, 0.7424))
    golden.records[3]["verdict"]["tried"] = [[0.5, 0.7], [0.25, 0.72]]
    assert [step for step, _ in read_record(golden.records[3], 3).path] == [0.0, 0.25, 0.5]
    golden.records[3]["verdict"]["tried"] = [["1.0", 0.7]]
    with pytest.raises(Malformed, match="a step is not a number"):
        read_record(golden.records[3], 3)


def test_a_spoilt_table_costs_the_analysis_alone(golden: Files) -> None:
    """Tables of cosines must be square and of the contributions that they name."""
    keys = [f"{c['repo']}@{c['sha']}" for c in golden.records[3]["contributions"][:2]]
    analysis = {"contributions": keys, "cosines": [[1, 0.2], [0.2, 1]], "drift": {"layer.0": 0.01}}
    found = read_record(golden.records[3] | {"analysis": analysis}, 3).analysis
    assert found is not None
    assert [list(row) for row in found.cosines] == [[1, 0.2], [0.2, 1]]
    assert found.drift == {"layer.0": 0.01}
    for spoilt in ([[1, 0.2]], [[1, 2], [2, 1]], [[1, "x"], [0, 1]], 5, [[1, None], [0, 1]]):
        record = read_record(golden.records[3] | {"analysis": analysis | {"cosines": spoilt}}, 3)
        assert (record.analysis, record.unreadable) == (None, 1), spoilt


def test_the_line_and_what_was_left_out_or_forgotten_are_read(golden: Files) -> None:
    """As the golden record has them; contamination without a generation is that of the record itself."""
    record = read_record(golden.records[3], 3)
    assert record.unreadable == 0
    assert record.line is not None
    assert record.line.points[::2] == ((0.0, 0.7442), (0.5, 0.7449), (1.0, 0.7481))
    assert (record.line.protocol, record.line.barrier) == ("probe", 0.0013)
    assert record.left_out["judy/roberta-spam@983a6108a086dbfed5f48fa1022dd62e4380fd82"] == Score(0.0121, 0.005, 0.019)
    assert [(r.task, r.over_root.mean, r.is_in_nats) for r in record.retention] == [
        ("", 0.0312, False), ("ag_news", 0.0312, False)]  # fmt: skip
    assert [(c.task, c.since) for c in record.contaminated] == [("banking77", 3)]
    assert record.contaminated[0].contributions[0].startswith("peggy/roberta-banking@")
    golden.records[3]["verdict"]["parent"] = -2.5
    assert read_record(golden.records[3], 3).in_nats


LINE = {"protocol": "probe", "at": [0, 0.5, 1], "values": [0.7, 0.66, 0.74], "barrier": 0.06}
OVER = {"mean": 0.1, "low": 0.0, "high": 0.2}
FAR = {"mean": 76.8, "low": 76.0, "high": 77.0}


@pytest.mark.parametrize(
    ("part", "spoilt"),
    [("line", LINE | {"barrier": 0.2}), ("line", LINE | {"at": [0, 0.5]}), ("line", LINE | {"at": [0.5, 0, 1]}),
     ("line", LINE | {"at": [0, 0.5, 2]}), ("line", LINE | {"values": [0.7, 66, 0.74]}), ("line", [LINE]),
     ("line", "x"), ("line", LINE | {"protocol": None}), ("line", LINE | {"values": "abc"}),
     ("line", LINE | {"at": [0, True, 1]}),
     ("left_out", 5), ("left_out", [OVER]), ("left_out", {"a/b": FAR}), ("left_out", {"a/b": None}),
     ("left_out", {"": OVER}), ("left_out", {"a/b": {"mean": 0.3, "low": 0.4, "high": 0.5}}),
     ("retention", 5), ("retention", [{"protocol": "probe", "over_parent": FAR, "over_root": OVER}]),
     ("retention", [{"protocol": "probe", "over_parent": OVER}]), ("retention", [[]]),
     ("contaminated", "x"), ("contaminated", [{"task": "cr", "contributions": [], "since": 4}]),
     ("contaminated", [{"task": "cr", "contributions": 7}]), ("contaminated", [{"task": 5, "contributions": []}])],
)  # fmt: skip
def test_a_spoilt_part_costs_itself_alone(golden: Files, part: str, spoilt: Any) -> None:
    """What cannot be true or is no such thing is counted and left out; the rest of the record stays as it is."""
    whole = read_record(golden.records[3], 3)
    golden.records[3]["analysis" if part in ("line", "left_out") else part] = (
        golden.records[3]["analysis"] | {part: spoilt} if part in ("line", "left_out") else spoilt
    )
    found = read_record(golden.records[3], 3)
    assert not getattr(found, part)
    assert replace(found, **{part: getattr(whole, part), "unreadable": 0}) == whole
    assert found.unreadable == 1


def test_likelihoods_have_no_bounds(golden: Files) -> None:
    """A log-likelihood is below 0 and may change by more than 1; its line need not lie between 0 and 1."""
    golden.records[3]["analysis"]["line"] = LINE | {
        "protocol": "perplexity",
        "values": [-2, -2.2, -1.8],
        "barrier": 0.3,
    }
    golden.records[3]["verdict"]["parent"] = -2.0
    golden.records[3]["analysis"]["left_out"] = {"a/b": {"mean": 2.0, "low": 1.0, "high": 3.0}}
    golden.records[3]["retention"] = [{"protocol": "perplexity", "over_parent": FAR, "over_root": OVER}]
    record = read_record(golden.records[3], 3)
    assert record.line
    assert (len(record.left_out), len(record.retention), record.unreadable) == (1, 1, 0)
    assert record.retention[0].is_in_nats


def test_the_folder_stands_alone() -> None:
    """It imports its own modules, the standard library, and what its requirements name or bring along."""
    own = {path.stem for path in SPACE.glob("*.py")} | {path.parent.name for path in SPACE.glob("*/__init__.py")}
    allowed = own | set(sys.stdlib_module_names) | {"gradio", "huggingface_hub", "jinja2", "starlette"}
    for path in SPACE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
    assert not [*SPACE.parent.glob("__init__.py"), *SPACE.glob("__init__.py")]


def test_of_thousands_of_refusals_each_can_be_looked_up(golden: Files, tmp_path: Path) -> None:
    """Told in full, by its code, or, past every bound, that some are not named; each with the command that tells."""
    golden.status |= {
        "queued": 5000, "refused": {"license_not_allowed": 1, "gated": 9000},
        "refused_names": {"gated": [f"account{n}/Finetune" for n in range(8000)]},
    }  # fmt: skip
    view = View(read(golden, tmp_path))
    assert view.status is not None
    assert (view.status.queue, view.status.nameless) == (5000, 4998 + 1000)
    named = look_up(view, "ACCOUNT7/finetune")
    assert named is not None
    assert (named["kind"], named["code"], named["repo"]) == ("named", "gated", "account7/Finetune")
    page = draw(view, Query.parse("show=contribute&repo=account7/Finetune"), NOW)
    assert "set aside in this round (gated)" in page
    assert "hub-fusion check account7/Finetune" in page
    whole = look_up(view, "victor/rb-nc")
    assert whole is not None
    assert whole["kind"] == "refused"
    unknown = draw(view, Query.parse("show=contribute&repo=some/body"), NOW)
    assert "5,998 are not named here" in unknown
    assert "hub-fusion check some/body" in unknown
    status = draw(view, Query.parse("show=status"), NOW)
    assert "And 4,998 more." in status
    assert "And 9,000 more" in status
    assert "gated 9,000, license_not_allowed 1." in status


def test_a_rejected_attempt_counts_all_of_its_refusals(golden: Files, tmp_path: Path) -> None:
    """A record tells some in full; old records have no counts and tell all."""
    golden.status["rejected"][0]["refused"] = {"gated": 9000}
    golden.records[3]["refused"] = {"gated": 9003}
    data = read(golden, tmp_path)
    last, record = data.attempts[-1], data.records[3]
    assert isinstance(last, Attempt)
    assert isinstance(record, Record)
    assert (last.refusals, dict(record.refused)) == (9000, {"gated": 9003})
    tree = draw(View(data), Query.parse("show=lineage&gen=gen-3"), NOW)
    assert "9003 set aside for gen-3" in tree
    for spoilt in ({"refused": 5}, {"refused": {"gated": "many"}}, {"refused_names": {"gated": 5, "x": [5, ""]}}):
        golden.status |= spoilt
        assert isinstance(read(golden, tmp_path).status, Status)


def test_canaries_are_told_in_one_line(golden: Files, tmp_path: Path) -> None:
    """What held, what tripped and how many were left out for it; one that cannot be read costs itself alone."""
    page = draw(View(read(golden, tmp_path)), Query.parse("gen=gen-3"), NOW)
    assert "Canaries: 1 held." in page
    held = golden.records[3]["verdict"]["canaries"][0]
    golden.records[3]["verdict"]["canaries"] = [held | {"tripped_by": ["a/b@c"]}, held | {"passed": False}, 5]
    data = read(golden, tmp_path)
    record = data.records[3]
    assert isinstance(record, Record)
    assert record.unreadable == 1
    page = draw(View(data), Query.parse("gen=gen-3"), NOW)
    assert "Canaries: 1 of 2 tripped (greetings); left out since they tripped one: 1." in page
