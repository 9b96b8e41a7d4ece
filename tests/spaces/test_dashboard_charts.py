"""What the dashboard's charts and comparisons compute, by hand-sized examples."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from charts.bars import diverging
from charts.heat import cosines, drift
from charts.lines import over_generations, path
from charts.tree import FEW, nodes, tree
from dashboards import BASE, NOW, Files
from lineage import Analysis, Attempt, Contamination, Line, Record, Retained, Score, Status, Trial
from pages import draw
from pages.analysis import forgotten, without
from pages.compare import compare
from pages.contribute import look_up
from pages.contributors import found, saved
from query import Query
from reader import Data, Reader
from view import View
from words import decimal, license_class, shortened, signed


@pytest.fixture
def data(golden: Files, tmp_path: Path) -> Data:
    """The golden lineage."""
    return Reader(BASE, "https://hub.example", snapshot=golden.write(tmp_path)).data


def test_bars_start_at_zero_and_stay_inside() -> None:
    """Losses end where gains begin; bars and intervals are within the width; only certain ones are not pale."""
    rows = diverging([("up", Score(0.02, 0.01, 0.03)), ("down", Score(-0.01, -0.03, 0.01))])
    up, down = rows
    assert up["start"] == up["zero"] == pytest.approx(down["start"] + down["length"])
    assert up["length"] == pytest.approx(2 * down["length"], abs=0.02)
    assert [row["certain"] for row in rows] == [True, False]
    assert all(0 <= row[end] <= 100 for row in rows for end in ("low", "high", "start", "zero"))
    assert diverging([("nothing", Score(0.0, 0.0, 0.0))])[0]["length"] == 0
    assert diverging([]) == []


def test_the_barrier_is_the_deepest_dip_below_the_chord() -> None:
    """Zero where the way lies above it; not known where nothing between was measured."""
    chart = path([(0.0, 0.70), (0.5, 0.66), (1.0, 0.74)])
    assert chart is not None
    assert chart["barrier"] == pytest.approx(0.06)  # the chord is at 0.72 there
    assert chart["dip"] is not None
    above = path([(0.0, 0.70), (0.5, 0.75), (1.0, 0.74)])
    assert above is not None
    assert (above["barrier"], above["dip"]) == (0.0, None)
    ends = path([(0.0, 0.70), (1.0, 0.74)])
    assert ends is not None
    assert ends["barrier"] is None
    assert path([(0.0, 0.7)]) is None
    assert over_generations([("gen-1", 0.1)]) is None


def test_cosines_are_shown_of_the_heaviest() -> None:
    """In the order that was asked for, without the diagonal, with how many were left out."""
    names = [f"a/{n}@{'0' * 40}" for n in range(30)]
    table = [[1.0 if i == j else (i - j) / 100 for j in range(30)] for i in range(30)]
    shown = cosines(names, table, names[::-1])
    assert [row["name"] for row in shown["rows"][:2]] == ["a/29", "a/28"]
    assert shown["hidden"] == 30 - len(shown["rows"])
    assert shown["rows"][0]["cells"][0] is None
    assert shown["rows"][0]["cells"][1] == {"value": 0.01, "shade": 1, "sign": "up"}
    assert shown["rows"][1]["cells"][0]["sign"] == "down"


def test_drift_groups_layers_by_block_where_there_are_many() -> None:
    """A value is the block's mean; layers that a generation does not have are gaps; shared beginnings are left out."""
    layers = {f"model.encoder.layer.{n}.{part}": 0.01 * (n + 1) for n in range(24) for part in ("a", "b", "c")}
    shown = drift([("gen-1", layers), ("gen-2", {"model.encoder.layer.0.a": 0.5})])
    assert shown["grouped"]
    assert [row["name"] for row in shown["rows"][:2]] == ["0", "1"]
    assert shown["rows"][0]["cells"][0]["value"] == pytest.approx(0.01)
    assert shown["rows"][0]["cells"][1] == {"value": 0.5, "shade": 100, "sign": "up"}
    assert shown["rows"][1]["cells"][1] is None
    small = drift([("gen-1", {"embed": 0.0, "head": 0.0})])
    assert [row["name"] for row in small["rows"]] == ["embed", "head"]
    assert [row["cells"][0]["shade"] for row in small["rows"]] == [0, 0]


def test_many_contributions_lie_together_until_they_are_opened(data: Data) -> None:
    """The heaviest are drawn; one more than fits is drawn too, since a cluster of one says nothing."""
    record = data.records[3]
    assert isinstance(record, Record)
    view = View(replace(data, records={**data.records, 3: replace(record, credits=record.credits * 3)}))
    newest = view.by_name["gen-3"]
    closed, opened = nodes(view, [newest], "")[0], nodes(view, [newest], "gen-3")[0]
    assert (len(closed.leaves), closed.hidden) == (FEW, 21 - FEW)
    assert (len(opened.leaves), opened.hidden) == (21, 0)
    whole = nodes(View(data), [newest], "")[0]
    assert (len(whole.leaves), whole.hidden) == (7, 0)
    drawn = tree([closed], goes_on=False)
    assert all(0 < leaf["y"] < drawn["height"] for leaf in closed.leaves)


def test_a_contribution_that_started_from_an_older_generation_is_late(data: Data) -> None:
    """peggy trained from gen-1 what was fused into gen-2: the tree says so."""
    newest = View(data).by_name["gen-3"]
    late = {leaf["credit"].repo: leaf["late"] for leaf in nodes(View(data), [newest], "")[0].leaves}
    assert late["peggy/roberta-banking"] == "from gen-1"
    assert late["judy/roberta-spam"] == ""


def test_the_way_to_an_older_window_leads_back(data: Data) -> None:
    """In 40 generations: from the newest to the oldest by Older, and back by Newer, every one seen."""
    newest = data.generations[-1]
    attempts = tuple(replace(newest, generation=n, parent=n - 1 if n else None, id=str(n)) for n in range(40))
    view, seen, address = View(replace(data, attempts=attempts, records={})), set(), "?show=lineage"
    for button in ("older", "newer"):
        for _ in range(10):
            html = draw(view, Query.parse(address), NOW)
            assert len(re.findall(r'class="mark published"[^>]*tabindex="0"', html)) == 1
            seen |= {n for n in range(40) if f"gen-{n}</text>" in html}
            if f'id="{button}"' not in html:
                break
            address = html.split(f'id="{button}" href="')[1].split('"')[0].replace("&amp;", "&")
        assert f'id="{button}"' not in html
    assert seen == set(range(40))


def test_two_generations_differ_by_tasks_people_and_recipe(data: Data) -> None:
    """Paired differences where one was made from the other; names in and out; lines of the recipe."""
    record = data.records[3]
    assert isinstance(record, Record)
    other = tuple(line.replace("seeds: 5", "seeds: 7") for line in record.recipe)
    view = View(replace(data, records={**data.records, 3: replace(record, recipe=other)}))
    step = compare(view, view.by_name["gen-2"], view.by_name["gen-3"])
    shown = {row["name"]: row["score"] for row in step["means"]}
    assert Score(0.0044, -0.0017, 0.0102) in shown.values()
    assert step["joined"] == ["carol", "judy", "niaj", "oscar", "peggy"]
    assert step["stayed"] == ["alice"]
    assert [(kind, line.strip(" +-")) for kind, line in step["recipe"] if kind != "keep"] == [
        ("drop", "seeds: 5"), ("add", "seeds: 7")]  # fmt: skip
    assert {words for words, _ in step["tasks"]} == {row["name"] for row in step["means"]}
    far = compare(view, view.by_name["gen-0"], view.by_name["gen-3"])
    assert far["recipe"] is None
    assert far["unknown"] == []
    assert len(far["tasks"]) == 4  # gen-0's tasks are known from its child's record


def test_a_repository_is_looked_up_in_what_was_read(data: Data) -> None:
    """Waiting, fused, refused by the newest word, unknown, no name; an address of the Hub is a name too."""
    view = View(data)
    for asked, kind in (("wendy/roberta-mrpc", "waiting"), ("alice/roberta-fused-mnli", "fused"),
                        ("VICTOR/rb-nc", "refused"), ("https://hub.example/bob/roberta-boolq", "fused"),
                        ("nobody/nothing", "unknown"), ("no name", "bad"), ("a/b;rm -rf /", "bad")):  # fmt: skip
        answer = look_up(view, asked)
        assert answer is not None
        assert answer["kind"] == kind, asked
    refused = look_up(view, "victor/rb-nc")
    assert refused is not None
    assert [names for _, names in refused["events"]] == [["this round", "gen-3", "gen-2", "gen-1"]]
    assert look_up(view, " ") is None


def test_what_is_saved_is_what_is_shown(data: Data) -> None:
    """CSV and JSON hold the rows that the filters let through; no cell is a formula."""
    view = View(data)
    asked = Query.parse("status=refused&q=licence")
    rows = list(csv.DictReader(io.StringIO(saved(view, asked, "csv"))))
    assert [row["repo"] for row in rows] == [row.repo for row in found(view, asked)] == ["victor/rb-nc"] * 4
    assert rows[0]["fix"].startswith("Publish it under")
    assert json.loads(saved(view, asked, "json"))[0]["code"] == "license_not_allowed"
    record = data.records[3]
    assert isinstance(record, Record)
    formula = replace(record.credits[0], task="=HYPERLINK(1)")
    spoilt = View(replace(data, records={3: replace(record, credits=(formula,))}))
    assert "'=HYPERLINK(1)" in saved(spoilt, Query.parse("status=fused"), "csv")


def test_the_analysis_shows_what_the_record_holds(data: Data) -> None:
    """Tables, path and leave-one-out where they are; what is missing is said, not drawn."""
    record = data.records[3]
    assert isinstance(record, Record)
    keys = tuple(f"{c.repo}@{c.sha}" for c in record.credits[:2])
    analysis = Analysis(keys, ((1.0, -0.25), (-0.25, 1.0)), (), (), 1.9, {"layer.0": 0.0125})
    full = replace(data, records={**data.records, 3: replace(record, analysis=analysis, line=None,
                                                                          left_out={})})  # fmt: skip
    html = draw(View(full), Query.parse("show=analysis"), NOW)
    for said in ("−0.25", "1.25", "No step between 0 and 1 was measured", "Leaving contributions out was not tried"):
        assert said in html
    bare = draw(View(data), Query.parse("show=analysis&gen=gen-1"), NOW)
    assert "gen-1 has no table of cosines in its record." in bare
    assert isinstance(data.attempts[0], Attempt)


def test_the_line_is_drawn_instead_of_the_tried_steps(data: Data) -> None:
    """Where the record has it: five points, the chord, the barrier; values below 0 are log-likelihoods, in nats."""
    record = data.records[3]
    assert isinstance(record, Record)
    html = draw(View(data), Query.parse("show=analysis"), NOW)
    for said in ("by linear probe on the straight line", "Barrier 0.13 points; noise alone", 'class="chord"',
                 '<th scope="row">0.75</th>', 'class="dip"'):  # fmt: skip
        assert said in html, said
    card = html.split('id="path"')[1].split("</section>")[0]
    assert card.count('class="dot"') == 5
    likely = Line("perplexity", ((0.0, -2.0), (0.5, -2.25), (1.0, -1.9)), 0.3)
    html = draw(View(replace(data, records={3: replace(record, line=likely)})), Query.parse("show=analysis"), NOW)
    for said in ("by perplexity on the", "Barrier 0.300 nats", "Gate mean in nats", '<td class="num">−2.250</td>'):
        assert said in html, said


def test_leave_one_out_is_what_the_record_says_of_it(data: Data) -> None:
    """All seven contributions of gen-3, worst first, also those that the list of trials does not hold; nats as nats."""
    record = data.records[3]
    assert isinstance(record, Record)
    rows = without(record)
    assert rows[0]["name"] == "judy/roberta-spam"
    assert (len(rows), rows[0]["score"], record.trials) == (7, Score(0.0121, 0.005, 0.019), ())
    trial = Trial("without", f"a/b@{'0' * 40}", 6, 1.0, 0.7, Score(0.01, 0.0, 0.02), accepted=False)
    old = replace(record, left_out={}, trials=(trial,))
    assert [row["name"] for row in without(old)] == ["a/b"]
    likely = replace(record, left_out={"a/b@0": Score(0.25, 0.125, 0.5)}, in_nats=True)
    html = draw(View(replace(data, records={3: likely})), Query.parse("show=analysis"), NOW)
    assert '<td class="num">+0.250</td><td class="short">+0.125 to +0.500</td>' in html


def test_what_was_forgotten_is_told_over_the_parent_and_the_root(data: Data) -> None:
    """The mean first, then the greatest loss since gen-0; points for accuracies, nats for likelihoods."""
    record = data.records[3]
    assert isinstance(record, Record)
    card = draw(View(data), Query.parse("show=analysis"), NOW).split('id="forgotten"')[1].split("</section>")[0]
    for said in ("mean over them", "ag_news", "linear probe", '<span class="same">−0.4</span><small>−1.1 to +0.3',
                 '<span class="up">+3.1</span><small>+1.9 to +4.3', "Points, with"):  # fmt: skip
        assert said in card, said
    up, down = Score(0.02, 0.01, 0.03), Score(-0.25, -0.5, -0.125)
    told = tuple(Retained(task, "perplexity", up, over) for task, over in (("", up), ("kept", up), ("lost", down)))
    assert [r.task for r in forgotten(replace(record, retention=told))] == ["", "lost", "kept"]
    html = draw(View(replace(data, records={3: replace(record, retention=told)})), Query.parse("show=analysis"), NOW)
    assert '<span class="down">−0.250</span><small>−0.500 to −0.125</small>' in html
    bare = draw(View(data), Query.parse("show=analysis&gen=gen-1"), NOW)
    assert "Not measured." in bare.split('id="forgotten"')[1].split("</section>")[0]


def test_tasks_that_are_not_held_out_are_marked(data: Data) -> None:
    """With ‡ wherever the generation's tasks stand, and with one sentence: since when, and through whom."""
    sentence = "banking77, whose data the cards of contributions name since gen-3 (peggy/roberta-banking)."
    overview = draw(View(data), Query.parse("metric=gate.probe.banking77"), NOW)
    compared = draw(View(data), Query.parse("show=generations"), NOW)
    assert overview.count(sentence) == compared.count(sentence) == 1
    assert "task banking77 ‡, linear probe" in overview
    assert '<th scope="row">banking77 ‡</th>' in overview
    assert '<th scope="row">banking77 ‡</th>' in compared
    assert "cr ‡" not in overview + compared
    for show in ("overview", "generations"):
        assert "‡" not in draw(View(data), Query.parse(f"show={show}&gen=gen-2"), NOW)
    record = data.records[3]
    assert isinstance(record, Record)
    many = Contamination("cr", tuple(f"a/{n}@0" for n in range(5)), 2)
    html = draw(View(replace(data, records={3: replace(record, contaminated=(many,))})), Query.parse(""), NOW)
    assert "since gen-2 (a/0, a/1, a/2 and others)." in html


def test_licences_are_told_apart_by_what_they_allow() -> None:
    """Four classes; what is not known is not taken for permissive."""
    for name, kind in (("mit", "permissive"), ("Apache-2.0", "permissive"), ("cc-by-4.0", "permissive"),
                       ("cc-by-sa-4.0", "share"), ("gpl-3.0", "share"), ("cc-by-nc-4.0", "limited"),
                       ("llama3.1", "limited"), ("", "unknown"), ("other", "unknown")):  # fmt: skip
        assert license_class(name) == kind, name
    assert shortened("someone/a-very-long-name-of-a-model", 20) == "someone/a-ver…-model"
    assert len(shortened("x" * 100, 30)) == 30


def test_nothing_is_less_than_zero_by_rounding() -> None:
    """A number that rounds to zero has no minus; differences of zero have both signs."""
    assert [decimal(value) for value in (-0.001, -0.01, 0.0, None)] == ["0.00", "−0.01", "0.00", ""]
    assert [signed(value) for value in (-0.0001, 0.0004, -0.004)] == ["±0.0", "±0.0", "−0.4"]


def test_doubts_and_reasons_stand_beside_the_numbers(data: Data) -> None:
    """Why scores are hard to believe, why a generation was withdrawn, and that rows of the status are missing."""
    record = data.records[3]
    assert isinstance(record, Record)
    assert isinstance(data.status, Status)
    doubted = replace(record, doubts=("scores seem to stand under other tasks' names",), withdrawn="It forgot <b>.")
    attempts = tuple(replace(a, status="yanked") if isinstance(a, Attempt) and a.generation == 3 else a
                     for a in data.attempts)  # fmt: skip
    spoilt = replace(data, attempts=attempts, records={3: doubted}, status=replace(data.status, unreadable=2))
    html = draw(View(spoilt), Query.parse("gen=gen-3"), NOW)
    for said in ("Hard to believe: scores seem to stand", "do not start from it. Reason: It forgot &lt;b&gt;.",
                 "2 rows of the watcher&#39;s status cannot be read."):  # fmt: skip
        assert said in html
