"""What the local Hub's benchmarks share: a server in a process of its own, its CPU time, the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

HERE = Path(__file__).resolve().parent
BUSY = 0.5
Row = dict[str, Any]

SERVE = "import sys; from pathlib import Path; from hub_fusion.local_hub import run; run(Path(sys.argv[1]))"


class Server:
    """A foreground server over a new folder with one user, `bench`; `api` is that user's client."""

    def __init__(self, root: Path) -> None:
        from hub_fusion.local_hub import add_user

        self.root = root
        self.token = add_user(root, "bench")

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.root)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        self.api = HfApi(endpoint=self.url, token=self.token)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def cpu_s(self) -> float:
        """Seconds of processor time the server has used, in user and system mode."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=["small", "full"], default="full")
    made.add_argument("--runs", type=int, default=3, help="timed runs after a warm-up; 0: one run, not warmed up")
    made.add_argument("--save", type=Path, nargs="?", const=HERE / "results", help="write JSON to results/, or here")
    made.set_defaults(load=os.getloadavg()[0])  # before we make any
    return made


def report(name: str, options: argparse.Namespace, tables: Mapping[str, Sequence[Row]]) -> None:
    """Print the tables as Markdown; with --save write ``<name>.json`` too."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu, cores = cpus[0].partition(":")[2].strip() if cpus else "", len(os.sched_getaffinity(0))
    print(f"\n{name}, {options.size}: {cores} cores, {cpu}, load {options.load:.1f} at the start")
    if options.load > BUSY:
        print("The machine was busy with other work: times are upper bounds, and ratios are those of this hour.")
    for title, rows in tables.items():
        print(f"\n{title}\n\n{markdown(rows)}")
    if options.save:
        facts = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "size": options.size,
            "runs": options.runs,
            "hardware": {"cpu": cpu, "cores": cores, "system": platform.platform(), "load_at_the_start": options.load},
            "versions": {name: version(name) for name in ("huggingface_hub", "hf_xet", "uvicorn", "starlette")},
        }
        options.save.mkdir(parents=True, exist_ok=True)
        path = options.save / f"{name}.json"
        path.write_text(json.dumps(facts | {"tables": tables}, indent=1) + "\n")
        print(f"\nwrote {path}")


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table whose columns are the first row's keys."""
    cells = [list(rows[0]), *([f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in cells)
