"""How long a visitor waits for the dashboard, with a long lineage, other visitors, and a Hub that may be dead.

    python benchmarks/dashboard/load.py --generations 200 --contributions 50 --visitors 20

The lineage is on a local Hub and in the Space's snapshot, as after ``space deploy``; the Space runs in a process of
its own. In every round one Chromium without a cache opens a page while the others, over HTTP, load that page and
all files that a browser asked for before; everybody shares this machine's cores. A page is ready once it shows what its
address asks for and nothing is on its way any more. All pages take turns. Then the same with a Hub that does not
answer: the page must say so in its amber strip.

The last line is ``{"start_seconds", "ready_seconds_median", "ready_seconds_p95", "hub_dead_ready_seconds", "rss_mb"}``:
process start to first answer, the browser's waits in the first part, their median in the second, and the server's peak.
The line before it tells the medians by page and the machine's load before. Without a Chromium it says so and measures
nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lineages import BASE, lineage
from serving import Served, serving, write_space

from hub_fusion.local_hub import add_user, serve

NAMES = """() => [...document.querySelectorAll("nav.pages a")].map(link => link.id.replace("nav-", ""))"""
SIZES = {"full": (200, 50, 20, 3), "small": (6, 4, 3, 1)}  # generations, contributions, visitors, rounds of all pages
READY = """([page]) => {
  const shown = document.querySelector("#dashboard"), asked = performance.getEntriesByType("resource")
  return shown && shown.dataset.page === page && !document.querySelector(".busy")
    && asked.some((entry) => entry.name.includes("component_server") && entry.responseEnd > 0)
}"""
DEAD = "http://127.0.0.1:9"  # nobody listens there


class Crowd:
    """Visitors without a browser, who load a page and its files over one connection each."""

    def __init__(self, url: str, number: int) -> None:
        self._place = urlsplit(url).netloc
        self._pool = ThreadPoolExecutor(max(1, number))
        self._number = number
        self.files: list[str] = []  # paths that a browser asked for

    def visit(self, page: str) -> Callable[[], list[float]]:
        """All set off now; the result waits for them and gives their times in seconds."""
        going = [self._pool.submit(self._one, page) for _ in range(self._number)]
        return lambda: [one.result() for one in going]

    def _one(self, page: str) -> float:
        began = time.perf_counter()
        line = http.client.HTTPConnection(self._place, timeout=60)
        for path in [f"/?show={page}", *self.files]:
            line.request("GET", path)
            answer = line.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path} gave {answer.status}")
        line.close()
        return time.perf_counter() - began


def waits(browser: Any, served: Served, visitors: int, rounds: int, says: str) -> dict[str, list[float]]:
    """Page → seconds until it was ready in the browser, with `visitors` − 1 others; what every page `says`."""
    crowd = Crowd(served.url, visitors - 1)
    first = _open(browser, served.url, "overview")  # is not counted: it tells what a browser loads
    crowd.files = sorted({path for path in first.asked if not path.startswith("/?")})
    found: dict[str, list[float]] = {page: [] for page in first.pages}
    for _ in range(rounds):
        for page in first.pages:
            others = crowd.visit(page)
            seen = _open(browser, served.url, page)
            others()
            if says not in seen.text:
                raise RuntimeError(f"{page} does not say {says!r}")
            found[page].append(seen.seconds)
    return found


@dataclass(frozen=True)
class Seen:
    """A page in a browser: seconds until it was ready, its text, all pages' names, and the files that were loaded."""

    seconds: float
    text: str
    pages: list[str]
    asked: list[str]


def _open(browser: Any, url: str, page: str) -> Seen:
    """Open a page in a window of its own, without a cache."""
    window = browser.new_context(viewport={"width": 1280, "height": 900})
    tab, asked = window.new_page(), []
    tab.on("request", lambda request: request.method == "GET" and asked.append(request.url.removeprefix(url)))
    began = time.perf_counter()
    tab.goto(f"{url}/?show={page}", wait_until="commit", timeout=60_000)
    tab.wait_for_function(READY, arg=[page], timeout=60_000)
    seconds = time.perf_counter() - began
    seen = Seen(seconds, tab.inner_text("#dashboard"), tab.evaluate(NAMES), asked)
    window.close()
    return seen


def measure(folder: Path, generations: int, contributions: int, visitors: int, rounds: int) -> dict[str, Any]:
    """The figures of one run; see the module's words."""
    from huggingface_hub import CommitOperationAdd, HfApi
    from playwright.sync_api import sync_playwright

    files = dict(lineage(generations, contributions))
    place = write_space(folder / "space", BASE, files)
    with serve(folder / "hub") as hub, sync_playwright() as playwright:
        acme = HfApi(endpoint=hub.url, token=add_user(hub.root, BASE.partition("/")[0]))
        acme.create_repo(BASE)
        acme.create_branch(BASE, branch="fusion-status")
        for branch in ("main", "fusion-status"):
            added = [CommitOperationAdd(path, text.encode()) for path, text in files.items()
                     if path.endswith("status.json") is (branch != "main")]  # fmt: skip
            acme.create_commit(BASE, added, commit_message="A lineage", revision=branch)
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        with serving(place, BASE, hub.url) as served:
            alive = waits(browser, served, visitors, rounds, BASE)
            rss, start = served.peak_mb(), served.start_s
        with serving(place, BASE, DEAD) as served:
            dead = waits(browser, served, visitors, rounds, "The Hub does not answer")
            rss = max(rss, served.peak_mb())
        browser.close()
    times = sorted(seconds for page in alive.values() for seconds in page)
    return {
        "pages": {page: round(statistics.median(seconds), 2) for page, seconds in alive.items()},
        "start_seconds": round(start, 2),
        "ready_seconds_median": round(statistics.median(times), 2),
        "ready_seconds_p95": round(times[min(len(times) - 1, round(0.95 * len(times)))], 2),
        "hub_dead_ready_seconds": round(statistics.median(s for page in dead.values() for s in page), 2),
        "rss_mb": round(rss),
    }


def find_chromium() -> str | None:
    """What HUB_FUSION_CHROMIUM names, or a Chromium on the PATH."""
    names = [os.environ.get("HUB_FUSION_CHROMIUM") or "chromium", "chromium-browser", "google-chrome"]
    return next((path for path in map(shutil.which, names) if path), None)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    for name in ("generations", "contributions", "visitors", "rounds"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--save", type=Path, help="add the two lines to this file")
    asked = parser.parse_args()
    names = ("generations", "contributions", "visitors", "rounds")
    sizes = {name: getattr(asked, name) or usual for name, usual in zip(names, SIZES[asked.size], strict=True)}
    if not find_chromium():
        print(json.dumps({"skipped": "no Chromium here"}))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), **sizes)
    about = {"sizes": sizes, "pages": found.pop("pages"), "cores": os.cpu_count(), "load_before": round(load, 1)}
    lines = [json.dumps(about), json.dumps(found)]
    print("\n".join(lines))
    if asked.save:
        with asked.save.open("a") as file:
            file.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    main()
