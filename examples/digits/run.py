"""What changes the loop? Methods, contributors, their data and the pool of tasks, on handwritten digits.

    python examples/digits/run.py --work digits --out examples/digits/results.json     # about 40 minutes on one core
    python examples/digits/run.py --table                                              # what is committed, as Markdown

Every variant is a simulation of the demo's world (hub_fusion/demo/digits.py): contributors know two or three of the
digits 0 … 6, the root is a small vision transformer with random weights, and the digits 7, 8 and 9, which nobody has,
judge it by few-shot finetuning with 30 examples. Run it again to go on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hub_fusion.demo.digits import (
    CONTRIBUTORS,
    HELD_OUT,
    POOL,
    SPLIT_SEED,
    deal_rows,
    load_images,
    write_root,
    write_task,
)

RESULTS = Path(__file__).parent / "results.json"
NAMES = [c.name for c in CONTRIBUTORS]
SETTINGS: dict[str, Any] = {
    "root": "root", "tasks": "tasks", "seen": NAMES, "gate": ["unseen-gate"], "report": ["unseen-report"],
    "generations": 6, "contributors": 7,
    "training": {"examples": 1000, "epochs": 6, "batch_size": 16, "learning_rate": 1e-3},
    "measure": {
        "probe": {"examples": 100}, "fewshot_at": [0, 1, 3, 6], "seen_at": [0, 1, 2, 3, 4, 5, 6],
        "fewshot": {"examples": 30, "epochs": 20, "batch_size": 16, "learning_rate": 5e-4}, "seeds": 3,
    },
    "controls": ["random", "one-round", "multitask", "long-finetune"],
}  # fmt: skip
SPLITS = {parts: [f"all-{parts}-{n}" for n in range(parts)] for parts in (2, 4, 8)}
QUIET = {"controls": []}
# family → {variant: what differs from SETTINGS}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "method": {
        "mean": {},
        "task arithmetic, 0.3": {"merge": {"method": "task_arithmetic", "options": {"scale": 0.3}}} | QUIET,
        "TIES": {"merge": {"method": "ties"}} | QUIET,
        "DARE-TIES": {"merge": {"method": "dare_ties"}} | QUIET,
        "TSV-M": {"merge": {"method": "tsv_m"}} | QUIET,
        "Iso-C": {"merge": {"method": "iso_c"}} | QUIET,
    },
    "contributors a generation": {str(n): {"contributors": n} | QUIET for n in (2, 4)},
    "examples a contributor": {str(n): {"training": SETTINGS["training"] | {"examples": n}} | QUIET for n in (32, 64)},
    "tasks in the pool": {str(n): {"seen": NAMES[:n], "contributors": n} | QUIET for n in (2, 4)},
    "one dataset over so many contributors": {
        str(n): {"seen": names, "contributors": n} | QUIET for n, names in SPLITS.items()
    },
}  # fmt: skip


def write_world(folder: Path) -> None:
    """Root and tasks; seen ones have a tenth of their images aside as validation."""
    if (folder / "root").is_dir():
        return
    pixels, labels = load_images()

    def write_seen(name: str, rows: np.ndarray) -> None:
        digits, mine = np.unique(labels[rows], return_inverse=True)
        order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
        aside = len(rows) // 10
        (folder / "tasks" / name).mkdir(parents=True, exist_ok=True)
        for part, chosen in (("gate", order[:aside]), ("train", order[aside:])):
            file = folder / "tasks" / name / f"{part}.npz"
            np.savez_compressed(file, pixel_values=pixels[rows[chosen]], label=mine[chosen].astype(np.int64))
        assert len(digits) > 1

    for contributor in CONTRIBUTORS:
        write_seen(contributor.name, deal_rows(contributor))
    seen = np.random.default_rng(SPLIT_SEED).permutation(np.flatnonzero(~np.isin(labels, HELD_OUT)))
    for names in SPLITS.values():
        for name, rows in zip(names, np.array_split(seen, len(names)), strict=True):
            write_seen(name, rows)
    for role in ("gate", "report"):
        write_task(folder / "tasks" / f"unseen-{role}")
        (folder / "tasks" / f"unseen-{role}" / ("report.npz" if role == "gate" else "gate.npz")).unlink()
    write_root(folder / "root")


def run(work: Path, seeds: int) -> dict[str, Any]:
    """Every variant with every seed of the sampling: changes against gen-0 on the report part."""
    from hub_fusion.demo.training import one_thread
    from hub_fusion.simulate.run import run_simulation
    from hub_fusion.simulate.settings import Simulation
    from hub_fusion.weights.compute import Compute

    write_world(work)
    found: dict[str, Any] = {}
    for family, variants in VARIANTS.items():
        for variant, changes in variants.items():
            for seed in range(seeds):
                name = f"{family} {variant} {seed}".replace(" ", "-").replace(",", "")
                file = work / f"{name}.yaml"
                file.write_text(yaml.safe_dump(SETTINGS | changes | {"seed": seed}))
                with one_thread():
                    report = run_simulation(Simulation.load(file), work / "runs" / name, Compute())
                kept = [c for c in report["changes"] if c["role"] == "report" and c["against"] == "gen-0"]
                found.setdefault(family, {}).setdefault(variant, []).append(
                    {"seed": seed, "best": report["best"],
                     "changes": [{k: c[k] for k in ("model", "protocol", "accuracy", "mean", "low", "high")}
                                 for c in kept]}
                )  # fmt: skip
                print(f"{name}: {cells(found[family][variant])}", flush=True)
    return {"pool": POOL, "generations": SETTINGS["generations"], "found": found}


def cells(runs: list[dict[str, Any]], protocol: str = "fewshot") -> dict[str, float]:
    """Model → mean over the seeds of the change against gen-0."""
    models = {c["model"] for r in runs for c in r["changes"] if c["protocol"] == protocol}
    return {
        m: round(float(np.mean([c["mean"] for r in runs for c in r["changes"]
                                if (c["model"], c["protocol"]) == (m, protocol)])), 4)
        for m in sorted(models)
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Markdown: points of few-shot accuracy over gen-0, mean over seeds, and the range over seeds at the end."""
    last = f"gen-{results['generations']}"
    shown = ["gen-1", "gen-3", last]
    lines = ["| | | " + " | ".join(shown) + " | seeds |", "|---|---|" + "---|" * (len(shown) + 1)]

    def row(family: str, variant: str, models: list[str], runs: list[dict[str, Any]]) -> str:
        means = cells(runs)
        ends = [100 * c["mean"] for r in runs for c in r["changes"]
                if (c["model"], c["protocol"]) == (models[-1], "fewshot")]  # fmt: skip
        values = " | ".join(f"{100 * means[m]:+.1f}" if m in means else "" for m in models)
        return f"| {family} | {variant} | {values} | {min(ends):+.1f} … {max(ends):+.1f} |"

    for family, variants in results["found"].items():
        lines += [row(family, variant, shown, runs) for variant, runs in variants.items()]
    controls = results["found"]["method"]["mean"]
    lines += [row("control", name, ["", "", name], controls) for name in SETTINGS["controls"]]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("digits"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print the committed results")
    options = parser.parse_args()
    if not options.table:
        options.out.write_text(json.dumps(run(options.work, options.seeds), separators=(",", ":")) + "\n")
    print(table(json.loads(options.out.read_text())))
