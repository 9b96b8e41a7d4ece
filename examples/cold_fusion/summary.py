"""The experiment in one line: how much better a base the loop made, from the committed results.

    python examples/cold_fusion/summary.py --json

Gains are of the best generation (chosen on the gate tasks) over gen-0 on the unseen report tasks, ``against`` the same
generation minus each control, all in points of accuracy with 95 % intervals. Reads results/mean.json, which
``hub-fusion simulate … --json`` wrote; nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PROTOCOLS = ("fewshot", "probe", "probe-cls", "finetune")


def summarise(found: dict[str, Any], root: str = "all-MiniLM-L6-v2") -> dict[str, Any]:
    """The line's object; a protocol or control that was not measured is not in it."""
    settings, best = found["settings"], found["best"]
    against: dict[str, dict[str, Any]] = {}
    gain = {}
    for change in found["changes"]:
        if change["role"] != "report" or change["model"] != best:
            continue
        points = {name: round(100 * change[name], 2) for name in ("mean", "low", "high")}
        if change["against"] == "gen-0":
            gain[change["protocol"]] = points
        else:
            against.setdefault(change["against"].replace("-", "_"), {})[change["protocol"]] = points
    generations = [step["generation"] for step in found["steps"] if step["step"] == "fuse"]
    return {
        "primary": "fewshot", "root": root, "seen": list(settings["seen"]),
        "unseen": [*settings["gate"], *settings["report"]], "generations": max(generations, default=0), "best": best,
        "gain": gain, "against": {name: against[name] for name in sorted(against) if not name.startswith("gen_")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--results", type=Path, default=RESULTS / "mean.json")
    options = parser.parse_args()
    if not options.results.is_file():
        parser.error(f"{options.results} is not there: run hub-fusion simulate simulation.yaml --out … --json")
    summary = summarise(json.loads(options.results.read_text(encoding="utf-8")))
    if options.json:
        print(json.dumps(summary))
        return
    print(f"{summary['root']}: best of {summary['generations']} generations, by the gate tasks: {summary['best']}")
    for protocol, g in summary["gain"].items():
        print(f"  {protocol:10} {g['mean']:+.2f} points over gen-0 [{g['low']:+.2f}, {g['high']:+.2f}]")
    for control, found in summary["against"].items():
        for protocol, g in found.items():
            print(f"  {protocol:10} {g['mean']:+.2f} points over {control} [{g['low']:+.2f}, {g['high']:+.2f}]")


if __name__ == "__main__":
    main()
