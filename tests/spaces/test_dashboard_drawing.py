"""The page says what the data say, in every state, and strangers' text stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from dashboards import BASE, NOW, Files
from draw import Page, ago, chart, draw, headline
from lineage import Attempt
from reader import Data, Reader

TAGS = {
    "h1", "h2", "p", "a", "ul", "li", "strong", "svg", "g", "title", "text", "line", "circle", "polygon", "polyline",
    "details", "summary", "div", "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
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


def spoil(value: Any, text: str) -> Any:
    """`value` with `text` for every string that is not a date or a word that the dashboard decides by."""
    if isinstance(value, dict):
        kept = ("status", "created_at", "heartbeat")
        return {k: v if k in kept else spoil(v, text) for k, v in value.items()}
    if isinstance(value, list):
        return [spoil(v, text) for v in value]
    return text if isinstance(value, str) and not re.fullmatch("[0-9a-f]{40}|gen-[0-9]+", value) else value


class Strict(HTMLParser):
    """Collects text and links; refuses tags and attributes that the templates do not write."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("src", "style", "srcdoc", "id", "xlink:href"), name
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def parsed(page: Page) -> Strict:
    """The HTML of the page, well-formed."""
    parser = Strict()
    for part in (page.head, page.chart, page.generation, page.attempts):
        parser.feed(part)
    parser.close()
    assert not parser.open
    return parser


def text_of(page: Page) -> str:
    """What a reader sees, on one line."""
    return " ".join("".join(parsed(page).text).split())


def data_of(files: Files, folder: Path) -> Data:
    """The files as the reader gives them."""
    return Reader(BASE, "https://hub.example", snapshot=files.write(folder)).data


@pytest.fixture
def data(golden: Files, tmp_path: Path) -> Data:
    """The golden lineage."""
    return data_of(golden, tmp_path)


def test_the_newest_generation_is_shown(data: Data) -> None:
    """Verdict, contributions, refusals with their fixes, and how to load it."""
    page = draw(data, None, NOW)
    text = text_of(page)
    for said in (BASE, "gen-3: 7 contributions by 6 accounts fused into gen-2", "71.4 % (95 % interval 70.6 to 72.2)",
                 "+0.4 points over gen-2 (−0.2 to +1.0; the interval holds 0", "alice/roberta-fused-anli",
                 "What went into gen-3", "Contribute your own training; copies do not count twice.",
                 "2 contributions are waiting", "1 hour ago"):  # fmt: skip
        assert said in text
    assert 'from_pretrained("acme/roberta-fused", revision="gen-3")' in page.snippet
    compile(page.snippet, "snippet", "exec")
    assert f"https://hub.example/{BASE}" in parsed(page).links


def test_a_generation_is_selected_by_its_tag(data: Data) -> None:
    """Only by a tag that is there; anything else gives the newest and says so."""
    assert "What went into gen-1" in text_of(draw(data, "gen-1", NOW))
    assert 'revision="gen-1"' in draw(data, "gen-1", NOW).snippet
    unknown = text_of(draw(data, "gen-99", NOW))
    assert "gen-99 does not exist here. This is gen-3." in unknown
    for wanted in ("<script>", "main", "gen-1 ", "gen-" + "9" * 50, "rejected attempt"):
        text = text_of(draw(data, wanted, NOW))
        assert "That generation does not exist here. This is gen-3." in text


def test_the_chart_holds_every_attempt(data: Data) -> None:
    """Six marks: four links on a line, two hollow ones beside it; the table twin has the same numbers."""
    page = draw(data, None, NOW)
    svg = ET.fromstring(re.search(r"<svg.*?</svg>", page.chart, re.DOTALL)[0])  # type: ignore[index]
    links = svg.findall("a")
    assert [a.get("href") for a in links] == [f"?gen=gen-{n}" for n in range(4)]
    assert [a.get("aria-current") for a in links] == [None, None, None, "true"]
    assert [g.get("class") for g in svg.findall("g")] == ["rejected", "rejected"]
    assert len(svg.find("polyline").get("points").split()) == 4  # type: ignore[union-attr]
    assert len(svg.find("polygon").get("points").split()) == 8  # type: ignore[union-attr]
    heights = [float(a.find("circle[@class='dot']").get("cy")) for a in links]  # type: ignore[union-attr,arg-type]
    assert heights == sorted(heights, reverse=True)
    table = page.chart[page.chart.index("<details") :]
    for link in links:
        mean, interval = re.fullmatch(r".*: (\S+) %, 95 % interval (.*)", link.get("aria-label") or "").groups()  # type: ignore[union-attr]
        assert f"{mean} ({interval})" in table


def test_the_line_breaks_where_scores_do_not_compare(golden: Files, tmp_path: Path) -> None:
    """At a change of the suite, and at an entry that cannot be read."""
    golden.index["entries"][2]["suite"] = golden.index["entries"][4]["suite"] = "0" * 64
    data = data_of(golden, tmp_path)
    drawing = chart(data, data.generations[-1], headline(data, data.generations[-1]))
    assert [len(line.split()) for line in drawing["lines"]] == [2, 2]
    assert "held-out tasks changed" in text_of(draw(data, None, NOW))
    golden.index["entries"][2]["created_at"] = "?"
    drawing = chart(gap := data_of(golden, tmp_path), gap.generations[-1], headline(gap, None))
    assert [len(line.split()) for line in drawing["lines"]] == [2]


def test_every_state_has_words(data: Data, golden: Files, tmp_path: Path) -> None:
    """Not read yet, unreachable, empty, only rejected ones, one generation, placeholder, withdrawn, no base."""
    fresh = Data(BASE, "https://hub.example")
    assert "has not been read yet" in text_of(draw(fresh, None, NOW))
    assert "There is nothing to show yet" in text_of(
        draw(replace(fresh, trouble="The Hub does not answer (x)."), None, NOW)
    )
    empty = replace(fresh, read_at=NOW)
    assert "No generation yet" in text_of(draw(empty, None, NOW))
    assert "from_pretrained" not in draw(empty, None, NOW).snippet
    late = draw(replace(data, trouble="The Hub does not answer (x)."), None, NOW)
    assert "Showing data of 2026-11-07 14:00 UTC." in text_of(late)
    assert 'class="warn"' in late.head
    rejected = tuple(a for a in data.attempts if isinstance(a, Attempt) and a.generation is None)
    assert "No generation has passed the gate yet." in text_of(draw(replace(data, attempts=rejected), None, NOW))
    one = draw(replace(data, attempts=data.attempts[:1], records={}), None, NOW)
    assert "<polyline" not in one.chart
    assert "gen-0: the weights from before the first fuse." in text_of(one)
    assert "Set HUB_FUSION_BASE" in text_of(draw(Reader("", "https://hub.example").data, None, NOW))
    golden.index["entries"][1]["scores"] = 5
    golden.index["entries"][4]["status"] = "yanked"
    page = text_of(draw(spoilt := data_of(golden, tmp_path), None, NOW))
    assert "1 entry of the lineage cannot be read" in page
    assert "This entry cannot be read: its scores is not a list." in page
    assert "What went into gen-2" in page  # the newest that was not withdrawn
    assert "gen-3 was withdrawn: do not start from it." in text_of(draw(spoilt, "gen-3", NOW))


def test_scores_that_are_all_the_same_or_extreme_are_drawn(data: Data) -> None:
    """The axis never has length 0, and marks stay inside."""
    score = {("report", "probe"): (0.0, 0.0, 0.0)}
    for mean, low, high in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 0.0, 1.0), (0.3, 0.3, 0.3)):
        measured = {key: type(data.generations[0].scores["gate", "probe"])(mean, low, high) for key in score}
        attempts = tuple(replace(a, scores=measured) for a in data.generations)
        drawing = chart(replace(data, attempts=attempts), None, ("report", "probe"))
        assert all(0 < mark[name] < drawing["height"] for mark in drawing["marks"] for name in ("y", "low", "high"))


def test_two_hundred_generations_fit(data: Data) -> None:
    """Labels are thinned, and the newest has one."""
    newest = data.generations[-1]
    attempts = tuple(replace(newest, generation=n, parent=n - 1 if n else None, id=str(n)) for n in range(200))
    page = draw(replace(data, attempts=attempts), None, NOW)
    labels = re.findall(r">(gen-\d+)</text>", page.chart)
    assert len(labels) <= 16
    assert labels[-1] == "gen-199"
    assert text_of(page)


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_stays_text(golden: Files, tmp_path: Path, text: str) -> None:
    """In every field of every file: no tag, no handler, no address but those of repositories on the Hub."""
    records = {n: spoil(r, text) for n, r in golden.records.items()}
    files = Files(spoil(golden.index, text), records, spoil(golden.status, text))
    data = data_of(files, tmp_path)
    assert data.read_at is not None
    for wanted in (None, "gen-1", text):
        page = draw(data, wanted, NOW)
        found = parsed(page)
        assert all(re.fullmatch(r"\?gen=gen-\d+|https://hub\.example/[\w./-]+", link, re.ASCII) for link in found.links)
        assert text not in page.snippet
        shown = "".join(found.text)
        assert all(ch.isprintable() or ch == "\n" for ch in shown)
        if text.isprintable() and len(text) < 60:
            assert text in shown


def test_durations_are_in_one_unit() -> None:
    """Rounded down; a clock that is behind gives no negative time."""
    for minutes, said in ((-5, "less than"), (1, "1 minute ago"), (59, "59 minutes"), (61, "1 hour"), (3000, "2 days")):
        assert ago(NOW - timedelta(minutes=minutes), NOW).startswith(said)
