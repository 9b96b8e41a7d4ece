"""Every page says what the data say, in every state, and strangers' text stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from charts.axis import Axis, thinned, ticks
from charts.score import score_charts
from dashboards import BASE, NOW, Files
from lineage import Attempt, Score
from page import Pages
from pages import PAGES, draw
from query import NAMES, Query
from reader import Data, Reader
from view import View
from words import ago

TAGS = {
    "h1", "h2", "h3", "p", "a", "ul", "ol", "li", "strong", "em", "small", "span", "svg", "g", "title", "text", "line",
    "circle", "polygon", "polyline", "path", "rect", "details", "summary", "div", "table", "thead", "tbody", "tr", "th",
    "td", "header", "nav", "section", "dl", "dt", "dd", "pre", "code", "form", "label", "select", "option", "input",
    "button", "caption",
}  # fmt: skip
VOID = {"input"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "${alert(1)} `${alert(1)}`",
    "\\x3cimg src\\x3dx onerror\\x3dalert(1)\\x3e",
    "{{ 7 * 7 }} {% raw %} {{#each value}} {{{value}}}",
    '__i18n__{"key":"\\u003cimg src=x onerror=alert(1)\\u003e"}',
    "javascript:alert(1)",
    "javascript:alert(1)//x/y",
    "https://evil.example/x.png",
    "</table></details><iframe src='https://evil.example'>",
    "safe\u202eevil\u2066\u200b\x00\x1b[31m\ud800",
    "@children",
    "a" * 5000,
]
INSIDE = re.compile(rf"\?(?:(?:{'|'.join(NAMES)})=[\w.%+~-]*(?:&|$))*", re.ASCII)
OUTSIDE = re.compile(r"https://hub\.example/[\w./-]+", re.ASCII)


def spoil(value: Any, text: str) -> Any:
    """`value` with `text` for every string that is not a date or a word that the dashboard decides by.

    Keys are strangers' text too where they name contributions, layers or packages.
    """
    if isinstance(value, dict):
        kept = ("status", "created_at", "heartbeat", "since")
        named = ("left_out", "drift", "versions")
        return {k: v if k in kept else {f"{text}{n}": spoil(item, text) for n, item in enumerate(v.values())}
                if k in named and isinstance(v, dict) else spoil(v, text) for k, v in value.items()}  # fmt: skip
    if isinstance(value, list):
        return [spoil(v, text) for v in value]
    return text if isinstance(value, str) and not re.fullmatch("[0-9a-f]{40}|gen-[0-9]+", value) else value


class Strict(HTMLParser):
    """Collects text and links; refuses tags and attributes that the templates do not write."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2"):
            self.headings.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "srcdoc", "xlink:href", "action", "formaction"), name
            assert name != "style" or re.fullmatch(r"--[a-z]+:-?[0-9.]+%?", value or ""), value
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def parsed(html: str) -> Strict:
    """The page, well-formed, with one heading of the first level."""
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert not parser.open
    assert parser.headings.count("h1") == 1
    return parser


def text_of(html: str) -> str:
    """What a reader sees, on one line."""
    return " ".join("".join(parsed(html).text).split())


def page(data: Data, query: str = "") -> str:
    """The page at ``?query``."""
    return draw(View(data), Query.parse(query), NOW)


def data_of(files: Files, folder: Path) -> Data:
    """The files as the reader gives them."""
    return Reader(BASE, "https://hub.example", snapshot=files.write(folder)).data


@pytest.fixture
def data(golden: Files, tmp_path: Path) -> Data:
    """The golden lineage."""
    return data_of(golden, tmp_path)


def test_the_overview_shows_the_newest_generation(data: Data) -> None:
    """Verdict, contributions, refusals with their fixes, and how to load it."""
    html = page(data)
    text = text_of(html)
    for said in (BASE, "gen-3 and gen-2 cannot be told apart: +0.4 points may be chance.", "95 % interval 70.6 to 72.2",
                 "points, −0.2 to +1.0", "by 6 accounts, 3 refused", "alice/roberta-fused-anli", "What went into gen-3",
                 "Contribute your own training; copies do not count twice.", "1 hour ago"):  # fmt: skip
        assert said in text
    snippet = re.search(r'<pre id="load"[^>]*>([^<]*)</pre>', html)
    assert snippet
    code = snippet[1].replace("&#34;", '"')
    assert 'from_pretrained("acme/roberta-fused", revision="gen-3")' in code
    compile(code, "snippet", "exec")
    assert f"https://hub.example/{BASE}" in parsed(html).links


def test_the_verdict_says_better_only_where_the_interval_does(data: Data) -> None:
    """Above 0 is better, below is worse, around 0 may be chance."""
    newest = data.generations[-1]
    for difference, said in ((Score(0.02, 0.01, 0.03), "gen-3 is 2.0 points better than gen-2"),
                             (Score(-0.02, -0.03, -0.01), "gen-3 is 2.0 points worse than gen-2"),
                             (Score(0.02, -0.01, 0.05), "cannot be told apart: +2.0 points")):  # fmt: skip
        changed = replace(newest, differences=dict.fromkeys(newest.differences, difference))
        attempts = tuple(changed if a is newest else a for a in data.attempts)
        assert said in text_of(page(replace(data, attempts=attempts)))


@pytest.mark.parametrize("name", PAGES)
def test_a_generation_is_selected_by_its_tag(data: Data, name: str) -> None:
    """Only by a tag that is there; anything else gives the newest and says so. Links to other pages keep it."""
    assert 'revision="gen-1"' in page(data, "gen=gen-1").replace("&#34;", '"')
    assert "?show=about&gen=gen-1" in parsed(page(data, f"show={name}&gen=gen-1")).links
    unknown = text_of(page(data, f"show={name}&gen=gen-99"))
    assert "gen-99 does not exist here. This is gen-3." in unknown
    for wanted in ("<script>", "main", "gen-" + "9" * 50, "rejected attempt"):
        assert "That generation does not exist here. This is gen-3." in text_of(page(data, f"show={name}&gen={wanted}"))


def test_an_address_holds_only_what_is_known() -> None:
    """Unknown names, malformed values and addresses of any length give a page all the same; links are canonical."""
    asked = Query.parse("?show=lineage&gen=gen-3&from=-1&a=gen-01&evil=1&__proto__=1&q=a%00b&to=gen-2")
    assert asked.values == {"show": "lineage", "gen": "gen-3", "q": "a b", "to": "gen-2"}
    assert asked.link() == "?show=lineage&gen=gen-3&to=gen-2&q=a+b"
    assert asked.link("status") == "?show=status&gen=gen-3"
    assert asked.link("overview", gen="") == "?"
    assert Query.parse("&".join(f"q{n}=1" for n in range(100))).values == {}
    assert len(Query.parse("q=" + "a" * 100_000)["q"]) <= 200


def test_the_chart_holds_every_attempt(data: Data) -> None:
    """Six marks: four links on a line, two hollow ones beside it; the table twin has the same numbers."""
    html = page(data)
    for found in re.findall(r'<svg class="chart.*?</svg>', html, re.DOTALL):
        svg = ET.fromstring(found.replace(" data-roving", ""))
        links = svg.findall("a")
        assert [a.get("href") for a in links] == [f"?gen=gen-{n}" for n in range(4)]
        assert [a.get("tabindex") for a in links] == ["-1", "-1", "-1", "0"]
        assert [a.get("aria-current") for a in links] == [None, None, None, "true"]
        assert [g.get("class") for g in svg.findall("g")] == ["mark rejected", "mark rejected"]
        assert len(svg.find("polyline").get("points").split()) == 4  # type: ignore[union-attr]
        assert len(svg.find("polygon").get("points").split()) == 8  # type: ignore[union-attr]
        heights = [float(a.find("circle[@class='dot']").get("cy")) for a in links]  # type: ignore[union-attr,arg-type]
        assert heights == sorted(heights, reverse=True)
        table = html[html.index("<details") :]
        for link in links:
            said = re.fullmatch(r".*: (\S+) %, 95 % interval (.*)", link.get("aria-label") or "")
            assert said
            assert re.search(rf'<td class="num">{said[1]}</td><td class="short">{said[2]}</td>', table)


def test_what_is_soon_replaced_travels_without_its_table(golden: Files, tmp_path: Path) -> None:
    """The page in gradio's own answer is the overview but for the folded table; no address asks for that."""
    pages = Pages(Reader(BASE, "https://hub.example", snapshot=golden.write(tmp_path)))
    first, whole = pages.first(), pages.html("")
    start = whole.index("<details>")
    end = whole.index("</details>") + len("</details>")
    assert "Scores of every attempt" in whole[start:end]
    assert "".join((whole[:start] + whole[end:]).split()) == "".join(first.split())
    assert pages.html("?brief=yes") == whole


def test_the_line_breaks_where_scores_do_not_compare(golden: Files, tmp_path: Path) -> None:
    """At a change of the suite, and at an entry that cannot be read."""
    golden.index["entries"][2]["suite"] = golden.index["entries"][4]["suite"] = "0" * 64
    view = View(data_of(golden, tmp_path))
    for drawing in score_charts(view, ("report", "fewshot"), view.newest):
        assert [len(line.split()) for line in drawing["lines"]] == [2, 2]
    assert "held-out tasks changed" in text_of(page(view.data))
    golden.index["entries"][2]["created_at"] = "?"
    gap = View(data_of(golden, tmp_path))
    for drawing in score_charts(gap, ("report", "fewshot"), gap.newest):
        assert [len(line.split()) for line in drawing["lines"]] == [2]


def test_the_chart_shows_single_tasks_too(data: Data) -> None:
    """Of generations; gen-0 has no record, and its tasks stand in its child's."""
    view = View(data)
    key = view.metrics["report.probe.cr"]
    assert [view.score(a, key) is not None for a in view.generations] == [True] * 4
    assert text_of(page(data, "metric=report.probe.cr")).count("task cr, linear probe, examples the gate never saw")
    assert view.metric(Query.parse("metric=nothing")) == ("report", "fewshot")


def test_every_state_has_words(data: Data, golden: Files, tmp_path: Path) -> None:
    """Not read yet, unreachable, empty, only rejected ones, one generation, placeholder, withdrawn, no base."""
    fresh = Data(BASE, "https://hub.example")
    assert "has not been read yet" in text_of(page(fresh))
    silent = replace(fresh, trouble="The Hub does not answer (x).")
    assert "There is nothing to show yet" in text_of(page(silent))
    empty = replace(fresh, read_at=NOW)
    assert "No generation yet" in text_of(page(empty))
    assert "gen-1 is made once enough contributions are in. 2 wait." in text_of(
        page(replace(empty, status=data.status))
    )
    assert "from_pretrained" not in page(empty)
    late = page(replace(data, trouble="The Hub does not answer (x)."))
    assert "Showing data of 2026-11-07 14:00 UTC." in text_of(late)
    assert 'class="strip"' in late
    rejected = tuple(a for a in data.attempts if isinstance(a, Attempt) and a.generation is None)
    assert "No generation has passed the gate yet." in text_of(page(replace(data, attempts=rejected)))
    one = page(replace(data, attempts=data.attempts[:1], records={}))
    assert "<polyline" not in one
    assert "gen-0 holds the weights from before the first fuse." in text_of(one)
    assert "Set HUB_FUSION_BASE" in text_of(page(Reader("", "https://hub.example").data))
    golden.index["entries"][1]["scores"] = 5
    golden.index["entries"][4]["status"] = "yanked"
    spoilt = data_of(golden, tmp_path)
    assert "1 entry of the lineage cannot be read" in text_of(page(spoilt))
    assert "What went into gen-2" in text_of(page(spoilt))  # the newest that was not withdrawn
    assert "gen-3 was withdrawn: do not start from it." in text_of(page(spoilt, "gen=gen-3"))
    for name in PAGES:
        for state in (fresh, silent, empty, spoilt, replace(data, attempts=rejected), replace(data, records={})):
            assert text_of(page(state, f"show={name}"))


@pytest.mark.parametrize("score", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.0, 1.0), (0.3, 0.3, 0.3)])
def test_scores_that_are_all_the_same_or_extreme_are_drawn(data: Data, score: tuple[float, float, float]) -> None:
    """The axis never has length 0, and marks stay inside."""
    attempts = tuple(replace(a, scores={("report", "probe"): Score(*score)}) for a in data.generations)
    for drawing in score_charts(View(replace(data, attempts=attempts)), ("report", "probe"), None):
        height, names = drawing["size"].height, ("y", "low", "high")
        assert all(0 < mark[name] < height for mark in drawing["marks"] for name in names)


def test_ticks_are_round_and_hold_the_values() -> None:
    """Two or more, from at most the least to at least the greatest."""
    for low, high in ((0.61, 0.78), (0.0, 0.0), (-0.02, 0.013), (0.999, 1.0), (-3.0, 40.0), (0.5, 0.5)):
        found = ticks(low, high)
        assert len(found) >= 2
        assert found[0] <= low + 1e-6
        assert found[-1] >= high - 1e-6
        assert found == sorted(set(found))
    assert Axis(0, 10, 100, 0)(2.5) == 75
    assert thinned(5, 10) == [0, 1, 2, 3, 4]
    assert thinned(200, 10)[-1] == 199


@pytest.mark.parametrize("name", PAGES)
def test_two_hundred_generations_fit(data: Data, name: str) -> None:
    """Labels are thinned, long lists are cut to windows, and the newest is there."""
    newest = data.generations[-1]
    attempts = tuple(replace(newest, generation=n, parent=n - 1 if n else None, id=str(n)) for n in range(200))
    records = dict.fromkeys(range(1, 200), data.records[3])
    html = page(replace(data, attempts=attempts, records=records), f"show={name}")
    assert "gen-199" in text_of(html)
    assert len(html) < 400_000
    assert html.count('class="axis"') < 80


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_stays_text(golden: Files, tmp_path: Path, text: str) -> None:
    """In every field of every file and in the address: no tag, no handler, no address but the Hub's and our own."""
    records = {n: spoil(r, text) for n, r in golden.records.items()}
    files = Files(spoil(golden.index, text), records, spoil(golden.status, text))
    data = data_of(files, tmp_path)
    assert data.read_at is not None
    for name in PAGES:
        for wanted in (f"show={name}", f"show={name}&gen=gen-1", "&".join(f"{field}={text}" for field in NAMES)):
            html = page(data, wanted)
            found = parsed(html)
            for link in found.links:
                assert INSIDE.fullmatch(link) or OUTSIDE.fullmatch(link) or link == "#content", link
            for code in re.findall(r'<pre id="load[^>]*>([^<]*)</pre>', html):
                assert text not in code
            shown = "".join(found.text)
            assert all(ch.isprintable() or ch == "\n" for ch in shown)
    if text.isprintable() and len(text) < 60:
        for show in ("overview", "analysis", "generations"):
            assert text in "".join(parsed(page(data, f"show={show}")).text)


def test_durations_are_in_one_unit() -> None:
    """Rounded down; a clock that is behind gives no negative time."""
    for minutes, said in ((-5, "less than"), (1, "1 minute ago"), (59, "59 minutes"), (61, "1 hour"), (3000, "2 days")):
        assert ago(NOW - timedelta(minutes=minutes), NOW).startswith(said)
