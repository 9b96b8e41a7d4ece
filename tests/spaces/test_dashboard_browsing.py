"""The dashboard in a real browser: every page in every state a lineage can be in, and what people do there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsers import PAGES, Visit, needs_chromium, visiting
from dashboards import read_golden
from states import HOSTILE

pytestmark = needs_chromium
Shown = Callable[[str], str]  # state → address
SAID = {  # state → page → what it must say there
    "golden": {"overview": "gen-3", "contributors": "alice/roberta-fused-anli", "status": "wendy/roberta-mrpc"},
    "root": {"overview": "gen-0"},
    "one": {"overview": "gen-1", "contributors": "erin/roberta-imdb-lora"},
    "empty": {"overview": "No generation yet"},
    "rejected": {"overview": "gen-0", "generations": "rejected"},
    "malformed": {"overview": "cannot be read", "generations": "gen-2"},
    "newer": {"overview": "newer dashboard"},
    "stale": {"status": "the disk is full"},
    "yanked": {"overview": "withdrawn", "generations": "withdrawn"},
    "dead": {"overview": "The Hub does not answer", "contributors": "alice/roberta-fused-anli"},
    "nowhere": {"overview": "nothing to show yet"},
    "missing": {"overview": "not found, private or gated"},
    "unset": {"overview": "HUB_FUSION_BASE"},
    "big": {"overview": "gen-200", "lineage": "gen-200", "generations": "gen-200", "contributors": "person-"},
}


@pytest.mark.parametrize("state", SAID)
def test_every_page_stands_in_every_state(shown: Shown, browser: Any, state: str) -> None:
    """On a phone and on a desk: it says what it must, fits, asks nobody else, and no script fails."""
    with visiting(browser, shown(state), width=390) as visit:
        visit.open("/")
        for width in (390, 1280):
            visit.tab.set_viewport_size({"width": width, "height": 900})
            for page in PAGES:
                visit.turn_to(page)
                visit.check((state, page, width))
                assert SAID[state].get(page, "") in visit.text(), (state, page)


@pytest.mark.parametrize(("scheme", "width"), [("dark", 390), ("light", 1280)])
def test_the_scheme_of_the_visitor_is_used(shown: Shown, browser: Any, scheme: str, width: int) -> None:
    """Light letters on a dark ground or dark ones on a light ground, on every page that is opened by its address."""
    with visiting(browser, shown("golden"), width=width, scheme=scheme) as visit:
        for page in PAGES:
            visit.open(f"/?show={page}")
            visit.check((page, scheme))
            ground, letters = visit.tab.evaluate(
                """() => [document.body, document.querySelector("h1")].map((e, i) =>
                getComputedStyle(e)[i ? "color" : "backgroundColor"].match(/\\d+/g).slice(0, 3).map(Number))"""
            )
            assert (sum(ground) < sum(letters)) is (scheme == "dark"), (ground, letters)


def test_strangers_code_is_text(shown: Shown, browser: Any) -> None:
    """Every text of the records is code: none runs, none loads anything, none links to script."""
    with visiting(browser, shown("hostile")) as visit:
        visit.open("/")
        for page in PAGES:
            for generation in ("gen-1", "gen-3"):
                visit.open(f"/?show={page}&gen={generation}")
                visit.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
                for mark in visit.tab.locator("[data-tip]").all()[:6]:
                    mark.dispatch_event("pointerover")
                visit.check((page, generation))
                assert visit.tab.locator("#dashboard :is(script, iframe, img, object, embed, base, meta)").count() == 0
                assert visit.tab.evaluate(
                    """() => [...document.querySelectorAll("#dashboard *")].flatMap(e => [...e.attributes])
                    .filter(a => a.name.startsWith("on") || /^\\s*(javascript|data):/i.test(a.value)).length"""
                ) == 0, page  # fmt: skip
        visit.open("/?show=contributors")
        assert HOSTILE[0] in visit.text(), "the code is shown as what it is"


def test_a_visitors_address_is_text(shown: Shown, browser: Any) -> None:
    """Whatever stands in the address: no code runs, and the page is there."""
    code = "%3Cimg%20src%3Dx%20onerror%3Dwindow.owned%3D1%3E"
    names = ("gen", "metric", "a", "b", "as", "status", "account", "q", "sort", "from", "repo")
    with visiting(browser, shown("golden")) as visit:
        for page in PAGES:
            visit.open(f"/?show={page}&" + "&".join(f"{name}={code}" for name in names))
            visit.check(page)
        visit.open(f"/?show={code}&gen=gen-99")
        visit.check()
        assert "gen-99 does not exist" in visit.text()


def test_the_keyboard_reaches_everything(shown: Shown, browser: Any) -> None:
    """Skip link, navigation, the marks of the chart with arrows and Enter; what has the focus can be seen."""
    with visiting(browser, shown("golden")) as visit:
        visit.open("/")
        press, focused = visit.tab.keyboard.press, "document.activeElement"
        for _ in range(12):
            press("Tab")
            if "Skip" in visit.tab.evaluate(f"{focused}.textContent"):
                break
        press("Enter")
        assert visit.tab.evaluate(f"{focused}.id") == "content"
        visit.tab.locator("#nav-generations").focus()
        press("Enter")
        visit.settle("generations")
        assert "show=generations" in visit.tab.url
        visit.turn_to("overview")
        visit.tab.locator("svg a.mark[tabindex='0']:visible").focus()
        assert (
            visit.tab.evaluate(f"getComputedStyle({focused}).outlineStyle + getComputedStyle({focused}).stroke")
            != "none"
        )
        press("ArrowLeft")
        press("ArrowLeft")
        name = visit.tab.evaluate(f"{focused}.getAttribute('aria-label')")
        assert re.match(r"gen-1\b.*%", name)
        press("Enter")
        visit.tab.wait_for_url("**/?gen=gen-1")
        visit.settle()
        assert visit.text("h1") == "gen-1"


def test_the_tab_key_goes_through_every_page(shown: Shown, browser: Any) -> None:
    """All links, buttons and fields of a page are reached once and in order, and each is at least 24 pixels high."""
    with visiting(browser, shown("golden")) as visit:
        visit.open("/")
        for page in PAGES:
            visit.turn_to(page)
            small = visit.tab.evaluate(
                """() => [...document.querySelectorAll("#dashboard :is(button, select, input, summary, nav a)")]
                .filter(e => e.checkVisibility() && e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"""
            )
            assert not small, page
            count = visit.tab.evaluate(
                """() => {
                const all = "a[href], button, select, input, summary, [tabindex='0']"
                window.stops = [...document.querySelectorAll(`#dashboard :is(${all})`)]
                    .filter(e => e.checkVisibility() && e.tabIndex >= 0)
                stops[0].focus()
                return stops.length
                }"""
            )
            for place in range(1, min(count, 60)):
                visit.tab.keyboard.press("Tab")
                assert visit.tab.evaluate("stops.indexOf(document.activeElement)") == place, (page, place)


def test_deep_links_and_the_back_button(shown: Shown, browser: Any) -> None:
    """What is shown is in the address: it can be sent to somebody, reloaded, left and returned to."""
    with visiting(browser, shown("golden")) as visit:
        visit.open("/?show=generations&gen=gen-2")
        visit.turn_to("overview")
        assert visit.text("h1") == "gen-2", "the generation stays chosen from page to page"
        visit.tab.locator("svg a.mark[aria-label^='gen-1']:visible").first.click()
        visit.tab.wait_for_function("document.querySelector('h1').textContent === 'gen-1'")
        visit.tab.reload()
        visit.settle("overview")
        assert visit.text("h1") == "gen-1"
        visit.tab.go_back()
        visit.tab.wait_for_function("document.querySelector('h1').textContent === 'gen-2'")
        visit.tab.go_back()
        visit.settle("generations")
        visit.tab.go_forward()
        visit.settle("overview")
        assert visit.tab.title() == "Overview · acme/state-golden"
        visit.check()


def test_the_snippet_is_copied(shown: Shown, browser: Any) -> None:
    """The button puts what can be run into the clipboard."""
    with visiting(browser, shown("golden")) as visit:
        visit.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        visit.open("/?gen=gen-2")
        visit.tab.locator("button[data-copy=load]").click()
        visit.tab.wait_for_function("document.querySelector('button[data-copy=load]').textContent.includes('Copied')")
        copied = visit.tab.evaluate("navigator.clipboard.readText()")
        assert 'revision="gen-2"' in copied
        compile(copied, "snippet", "exec")


def column(visit: Visit, table: str, place: int) -> list[str]:
    """The first line of every cell of a column."""
    cells = visit.tab.locator(f"#{table} tbody tr > :nth-child({place})").all_inner_texts()
    return [cell.strip().splitlines()[0] for cell in cells]


def choose(visit: Visit, name: str, value: str) -> None:
    """Set a field of the page's form and wait for what follows."""
    before = visit.tab.url
    field = visit.tab.locator(f"#{name}")
    if field.evaluate("e => e.tagName") == "SELECT":
        field.select_option(value)
    else:
        field.fill(value)
        field.press("Enter")
    visit.tab.wait_for_function("before => location.href !== before", arg=before)
    visit.settle()


def test_contributions_are_sorted_and_filtered(shown: Shown, browser: Any) -> None:
    """By status, generation and words, in any order; the address holds it all; what is saved is what is shown."""
    golden = read_golden()
    fused = sorted(c["repo"] for record in golden.records.values() for c in record["contributions"])
    with visiting(browser, shown("golden")) as visit:
        visit.open("/?show=contributors")
        choose(visit, "status", "fused")
        choose(visit, "sort", "name")
        assert column(visit, "contributions", 1) == sorted(fused, key=str.casefold)
        choose(visit, "gen", "gen-2")
        assert set(column(visit, "contributions", 1)) == {c["repo"] for c in golden.records[2]["contributions"]}
        choose(visit, "gen", "")
        choose(visit, "sort", "weight")
        shares = [float(share.removesuffix(" %")) for share in column(visit, "contributions", 4)]
        assert shares == sorted(shares, reverse=True)
        choose(visit, "q", "alice")
        assert {name.split("/")[0] for name in column(visit, "contributions", 1)} == {"alice"}
        visit.tab.reload()
        visit.settle("contributors")
        assert len(column(visit, "contributions", 1)) == 4, "the address holds the filters"
        with visit.tab.expect_download() as download:
            visit.tab.locator("button[data-save=json]").click()
        saved = json.loads(Path(download.value.path()).read_text())
        assert [row["repo"] for row in saved] == column(visit, "contributions", 1)
        with visit.tab.expect_download() as download:
            visit.tab.locator("button[data-save=csv]").click()
        assert len(Path(download.value.path()).read_text().splitlines()) == 5
        choose(visit, "q", "nobody has this")
        assert "Nothing matches" in visit.text()
        visit.tab.go_back()
        visit.tab.wait_for_selector("#contributions")
        visit.check()


def test_refusals_show_reason_and_fix(shown: Shown, browser: Any) -> None:
    """An author finds here what the watcher said and what to do."""
    refused = read_golden().records[3]["refusals"]
    with visiting(browser, shown("golden"), width=390) as visit:
        visit.open("/?show=contributors&status=refused&gen=gen-3")
        for refusal in refused:
            assert refusal["reason"] in visit.text()
            assert refusal["fix"] in visit.text()


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("wendy/roberta-mrpc", "in the queue"),
        ("Alice/roberta-fused-anli", "fused"),
        ("sybil/roberta-spam-again", "copies do not count twice"),
        ("new/model", "hub-fusion check new/model"),
        ("no repository", "no repository's name"),
        ("<img src=x onerror=window.owned=1>", "no repository's name"),
    ],
)
def test_a_contributor_looks_up_what_became_of_a_model(shown: Shown, browser: Any, repo: str, said: str) -> None:
    """Queued, fused, refused with the fix, or unknown with the command that tells why; nothing is asked of the Hub."""
    with visiting(browser, shown("golden")) as visit:
        visit.open("/?show=contribute")
        visit.tab.locator("#repo").fill(repo)
        visit.tab.locator("#lookup-go").click()
        visit.tab.wait_for_function("document.querySelector('#lookup-answer').textContent.trim()")
        assert said in visit.text("#lookup-answer")
        visit.check()


def test_two_generations_are_compared(shown: Shown, browser: Any) -> None:
    """Task by task, who came and went, what the cards say; the address holds the pair."""
    golden = read_golden()
    before, after = ({c["author"] for c in golden.records[n]["contributions"]} for n in (1, 3))
    with visiting(browser, shown("golden")) as visit:
        visit.open("/?show=generations")
        choose(visit, "a", "gen-1")
        choose(visit, "b", "gen-2")
        choose(visit, "b", "gen-3")
        assert "a=gen-1" in visit.tab.url
        assert "b=gen-3" in visit.tab.url
        shown_now = visit.text("section[aria-labelledby=compare]")
        for name in (after - before) | (before - after):
            assert name in shown_now
        for task in ("cr", "subj", "banking77"):
            assert task in shown_now
        reached = [
            next(s["mean"] for s in golden.records[n]["candidate_scores"]["tasks"]
                 if (s["task"], s["role"], s["protocol"]) == ("subj", "report", "fewshot"))
            for n in (1, 3)
        ]  # fmt: skip
        assert f"{100 * (reached[1] - reached[0]):+.1f}".replace("-", "−") in shown_now
        visit.open("/?show=generations&a=gen-2&b=gen-2")
        assert "two different generations" in visit.text()
        visit.check()


def test_attempts_are_sorted(shown: Shown, browser: Any) -> None:
    """Newest or oldest first or by score, the rejected ones among them."""
    with visiting(browser, shown("golden")) as visit:
        visit.open("/?show=generations")
        for order in visit.tab.locator("#sort option").evaluate_all("all => all.map(o => o.value)")[::-1]:
            choose(visit, "sort", order)
            rows = column(visit, "attempts-table", 1)
            assert sorted(rows) == ["attempt", "attempt", "gen-0", "gen-1", "gen-2", "gen-3"]
            if order == "score":
                scores = [float(score) for score in column(visit, "attempts-table", 4) if score]
                assert scores == sorted(scores, reverse=True)


def test_all_pages_are_there() -> None:
    """The eight that people look for."""
    assert list(PAGES) == [
        "overview", "lineage", "generations", "contributors", "analysis", "contribute", "status", "about"]  # fmt: skip
