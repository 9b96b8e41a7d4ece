"""Draw the experiment's figures from its committed results, for light and dark pages.

python examples/cold_fusion/figures.py        # results/mean.json → figures/*.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#888888"  # Okabe and Ito
NAMES = {
    "fewshot": "few-shot, 100 examples",
    "probe": "linear probe, mean of tokens",
    "probe-cls": "linear probe, first token",
}
PAGES = {"light": ("white", "#222222"), "dark": ("#0d1117", "#e6edf3")}


def over_generations(found: dict[str, Any], axes: Any, protocol: str) -> None:
    """Change of the mean over the report tasks against gen-0; controls as points at the right."""
    rows = {c["model"]: c for c in found["changes"]
            if (c["against"], c["role"], c["protocol"]) == ("gen-0", "report", protocol)}  # fmt: skip
    line = [(0, 0.0, 0.0, 0.0)]
    line += [(int(m[4:]), c["mean"], c["low"], c["high"]) for m, c in rows.items() if m.startswith("gen-")]
    x, mean, low, high = zip(*((g, 100 * m, 100 * lo, 100 * hi) for g, m, lo, hi in sorted(line)), strict=True)
    axes.fill_between(x, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(x, mean, color=BLUE, marker="o", markersize=4, label="generations")
    controls = [(m, c) for m, c in rows.items() if not m.startswith("gen-")]
    for place, (name, c) in enumerate(controls, 1):
        at, colour = max(x) + place * 0.8, (ORANGE, GREEN, PINK, GREY)[place % 4]
        spread = [[100 * (c["mean"] - c["low"])], [100 * (c["high"] - c["mean"])]]
        axes.errorbar(at, 100 * c["mean"], yerr=spread, fmt="s", color=colour, markersize=5, label=name)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title=NAMES[protocol], xlabel="generation", ylabel="points over gen-0")
    axes.legend(frameon=False, fontsize=8)


def by_task(found: dict[str, Any], axes: Any) -> None:
    """Few-shot change of the best generation on every unseen task; gate tasks hollow."""
    bars = []
    for role in ("report", "gate"):
        for c in found["changes"]:
            if (c["model"], c["against"], c["role"], c["protocol"]) == (found["best"], "gen-0", role, "fewshot"):
                bars += [(100 * value, task, role) for task, value in c["by_task"].items()]
    bars.sort()
    for row, (value, _, role) in enumerate(bars):
        axes.barh(row, value, color=BLUE if role == "report" else "none", edgecolor=BLUE)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(bars)), [task for _, task, _ in bars], fontsize=8)
    axes.set(title=f"{found['best']}, few-shot (hollow: gate tasks)", xlabel="points over gen-0")


def draw(found: dict[str, Any], out: Path) -> list[Path]:
    """Two figures for each kind of page; the same results give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    mpl.rcParams["svg.hashsalt"] = "hub_fusion"
    files = []
    for page, (back, fore) in PAGES.items():
        style = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), fore)
        with mpl.rc_context(style | {"figure.facecolor": back, "axes.facecolor": back, "font.size": 9}):
            measured = {c["protocol"] for c in found["changes"] if c["role"] == "report"}
            protocols = [p for p in NAMES if p in measured]
            figure, axes = plt.subplots(1, len(protocols), figsize=(4 * len(protocols), 3.4), squeeze=False)
            for protocol, place in zip(protocols, axes[0], strict=True):
                over_generations(found, place, protocol)
            files.append(_save(figure, out / f"generations-{page}.svg"))
            figure, place = plt.subplots(figsize=(5.5, 3.6))
            by_task(found, place)
            files.append(_save(figure, out / f"tasks-{page}.svg"))
    return files


def _save(figure: Any, file: Path) -> Path:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "mean.json")
    parser.add_argument("--out", type=Path, default=HERE / "figures")
    options = parser.parse_args()
    for file in draw(json.loads(options.results.read_text(encoding="utf-8")), options.out):
        print(file)
