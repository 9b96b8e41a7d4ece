"""What it costs to look through the thousands of children of a popular base, and to look again.

    python benchmarks/watch/scan.py [--repos 10000] [--size small] [--save]

Claims: a verdict for each from its listing, at most 2 kB each, and from the headers of those that their metadata lets
pass; none wrong; and a second look at which nothing is new is at most two requests. On a local Hub in a process of its
own, filled by seed.py: 2 % of the repositories are sound, 3 % have faulty headers, others faulty metadata (kinds.py).
Requests and bytes are counted at the client: the bodies of all answers as they came, and their header lines.

The last line is JSON; `bytes` are all of the first look, `metadata_bytes` those of its listing, `let_pass` how many
needed their headers read, `wrong_verdicts` the number of repositories whose verdict is not that of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.utils import disable_progress_bars
from kinds import BASE, UNLISTED_VERDICT
from seed import choose, seed

from hub_fusion.contributions.listing import Listing
from hub_fusion.hub import Hub
from hub_fusion.recipe import Recipe

SERVE = "import sys; from pathlib import Path; from hub_fusion.local_hub import run; run(Path(sys.argv[1]))"
SMALL = 300


class Counter:
    """All answers since the last `take`."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def take(self) -> dict[str, int]:
        """How many there were and how large they were."""
        taken, self.answers = self.answers, []
        size = sum(a.num_bytes_downloaded + sum(len(k) + len(v) + 4 for k, v in a.headers.raw) for a in taken)
        lists = [a for a in taken if a.url.path == "/api/models"]
        return {"requests": len(taken), "bytes": size, "metadata_bytes": sum(a.num_bytes_downloaded for a in lists)}


def counting() -> Counter:
    """Count every answer to the client of this process."""
    from huggingface_hub.utils import get_session

    counter = Counter()
    get_session().event_hooks["response"].append(lambda answer: counter.answers.append(answer))
    return counter


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """A Hub over this folder in a process of its own; its URL."""
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def look(hub: Hub, listing: Listing, counter: Counter) -> tuple[dict[str, str], dict[str, float]]:
    """Repository → code of its refusal, nothing for one that passed; and what it cost."""
    counter.take()
    began = time.perf_counter()
    queue, refusals = listing.look(hub, Recipe(base=BASE), frozenset(), hub.resolve(BASE))
    seconds = time.perf_counter() - began
    let_pass = len(queue) + sum(r.stage == "screen" for r in refusals)
    verdicts = {r.repo: r.code for r in refusals} | {c.repo: "" for c in queue}
    return verdicts, counter.take() | {"seconds": round(seconds, 2), "let_pass": let_pass}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repos", type=int, help="default: 10,000, or 300 with --size small")
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--save", type=Path, nargs="?", const=Path(__file__).parent / "results", help="write JSON here")
    options = parser.parse_args()
    disable_progress_bars()
    load, kinds = os.getloadavg()[0], choose(options.repos or (SMALL if options.size == "small" else 10_000))
    with tempfile.TemporaryDirectory(prefix="bench-scan-") as scratch:
        work = Path(scratch)
        expected, _ = seed(work / "hub", kinds)
        counter = counting()
        with serving(work / "hub") as url:
            hub, listing = Hub(url, token=None, cache_dir=work / "cache"), Listing(work / "listing.sqlite3")
            verdicts, first = look(hub, listing, counter)
            again, second = look(hub, listing, counter)
    unlisted = dict.fromkeys({*expected, *verdicts, *again}, UNLISTED_VERDICT)
    told, told_again = unlisted | verdicts, unlisted | again
    right = {repo: expected.get(repo, UNLISTED_VERDICT) for repo in unlisted}
    wrong = {repo: (want, told[repo]) for repo, want in right.items() if not want == told[repo] == told_again[repo]}
    for repo, (want, got) in sorted(wrong.items())[:20]:
        print(f"wrong: {repo} deserves {want or 'to pass'}, got {got or 'through'}", file=sys.stderr)
    result = {
        "repos": len(expected),
        "first_scan": {key: first[key] for key in ("requests", "bytes", "seconds", "metadata_bytes", "let_pass")},
        "second_poll": {key: second[key] for key in ("requests", "bytes", "seconds")},
        "wrong_verdicts": len(wrong),
    }
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        facts = {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "cores": os.cpu_count(), "load_at_the_start": load,
                 "system": platform.platform()}  # fmt: skip
        (options.save / "scan.json").write_text(json.dumps(facts | result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
