"""The dashboard reads what a lineage holds, entry by entry, and trusts none of it."""

from __future__ import annotations

import ast
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dashboards import BASE, GOLDEN, Files, upload
from hypothesis import given, settings
from hypothesis import strategies as st
from lineage import Attempt, Malformed, Record, Status, Unreadable, read_index, read_json, read_record, read_status
from reader import Data, Reader

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
    assert [type(a) for a in read_index(golden.index)].count(Unreadable) == 1


def test_numbers_are_not_used_twice(golden: Files) -> None:
    """The first holder of a number keeps it."""
    golden.index["entries"][4]["generation"] = 2
    found = read_index(golden.index)
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
    reader.data = Data(**(vars(reader.data) | {"endpoint": "http://127.0.0.1:9"}))
    assert not reader.refresh()
    assert "does not answer" in reader.data.trouble
    assert len(reader.data.attempts) == 6


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


def test_a_broken_snapshot_is_no_snapshot(golden: Files, tmp_path: Path) -> None:
    """The dashboard starts all the same."""
    for text in (
        "",
        "[]",
        '{"read_at": 1}',
        '{"read_at": "2026-01-01T00:00:00Z", "index": {"entries": []}, "generations": 3}',
    ):
        (tmp_path / "snapshot.json").write_text(text)
        assert Reader(BASE, "https://hub.example", snapshot=tmp_path / "snapshot.json").data.read_at is None


def test_the_folder_stands_alone() -> None:
    """It imports its own modules, the standard library, and what its requirements name or bring along."""
    own = {path.stem for path in SPACE.glob("*.py")}
    allowed = own | set(sys.stdlib_module_names) | {"gradio", "huggingface_hub", "jinja2"}
    for path in SPACE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path
    assert not list(SPACE.parent.glob("**/__init__.py"))
