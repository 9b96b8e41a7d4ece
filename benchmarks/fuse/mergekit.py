"""hub_fusion against mergekit: a Llama in bf16 and eight finetunes, by four methods, in one run.

    python benchmarks/fuse/mergekit.py --size small            # 30M parameters, a few minutes
    python benchmarks/fuse/mergekit.py --work DIR --save       # 379M parameters: 6.8 GB read, 0.76 GB written

Both programs run whole, in turn, with their defaults and all cores, files in the page cache. mergekit's linear merge
reads the eight finetunes only, where our mean reads the base too. Memory is measured with 4 and 16 contributions as
well, of hub_fusion only; the last eight of the 16 are the first under other names. Goals are for the full size and two
quiet cores.
"""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import peer
from common import (
    SIZES,
    Floor,
    Row,
    Run,
    alternately,
    bf16_steps,
    floor,
    fresh,
    fuse_command,
    make_models,
    median_fuse_s,
    median_s,
    parser,
    peak_mib,
    report,
    run,
    sample,
    size_of,
    sum_of_changes,
    weight_files,
    work_folder,
)

FINETUNES = 8


@dataclass(frozen=True)
class Method:
    """One method in both programs."""

    ours: tuple[str, ...]  # options of hub-fusion fuse
    theirs: str  # merge_method
    each: Mapping[str, float]  # parameters of every model in mergekit's configuration
    goal: float  # times as fast as mergekit
    factor: float | None = None  # the result is base + factor·Σ changes
    fuse_goal: str | None = None  # the fuse alone against the floor


METHODS = {
    "mean": Method(("-m", "mean"), "linear", {"weight": 1.0}, 3.5, 1 / FINETUNES, "≤ 2"),
    "task_arithmetic": Method(("-m", "task_arithmetic"), "task_arithmetic", {"weight": 1.0}, 3.5, 1.0, "≤ 2"),
    "ties": Method(("-m", "ties", "--set", "density=0.2"), "ties", {"weight": 1.0, "density": 0.2}, 15),
    "dare_ties": Method(("-m", "dare_ties", "--set", "density=0.2"), "dare_ties", {"weight": 1.0, "density": 0.2}, 10),
}


def main() -> None:
    """Three tables: time, memory, result."""
    options = parser(__doc__)
    options.add_argument("--methods", default=",".join(METHODS), help="some of them, with commas between")
    options.add_argument("--counts", default="4,16", help="measure memory with so many contributions too")
    peer.add_options(options)
    options.add_argument("--without-mergekit", action="store_true", help="hub_fusion and the floor only")
    given = options.parse_args()
    program = None if given.without_mergekit else peer.mergekit_program(given.mergekit_venv)
    with work_folder(given.work) as work:
        measure(given, work / given.size, program)


def measure(given: Namespace, place: Path, program: Path | None) -> None:
    """Make inputs in `place`, run everything there, report."""
    shape, counts = SIZES[given.size], [int(count) for count in given.counts.split(",") if count]
    base, finetunes = make_models(place, FINETUNES, shape)
    again = [linked(finetunes[i % FINETUNES], place / f"again-{i}") for i in range(max([*counts, 8]) - FINETUNES)]
    files, names = [base, *finetunes], sample(list(shape.tensors()))
    bytes_alone = floor(weight_files(files), size_of([base]), place / "scratch")
    times, memory, results = list[Row](), list[Row](), list[Row]()
    for name in given.methods.split(","):
        print(f"{name}:", file=sys.stderr)
        method, out, out_theirs = METHODS[name], place / "out", place / "out-mergekit"
        config = peer.write_config(place / f"{name}.json", method.theirs, method.each, base, finetunes)

        def ours(count: int = FINETUNES, method: Method = method, out: Path = out) -> Run:
            return run(fuse_command(base, [*finetunes, *again][:count], fresh(out), *method.ours))

        def theirs(config: Path = config, out: Path = out_theirs) -> Run:
            assert program
            return peer.run_mergekit(program, config, out)

        runs = alternately(given.runs, {"hub_fusion": ours} | ({"mergekit": theirs} if program else {}))
        times.append(time_row(name, runs, bytes_alone))
        if method.factor:
            wanted = sum_of_changes(base, finetunes, method.factor)
            steps = bf16_steps(out, wanted, names)
            results.append({"method": name, "tensors": len(names), "hub_fusion": steps, "within one step": steps <= 1,
                            "mergekit": bf16_steps(out_theirs, wanted, names) if program else None})  # fmt: skip
        rows = [memory_row(name, count, {"hub_fusion": [ours(count)]}) for count in counts]
        memory += sorted([memory_row(name, FINETUNES, runs), *rows], key=lambda row: row["contributions"])
        for folder in (out, out_theirs):
            fresh(folder)
    inputs, result = size_of(files) / 1e9, size_of([base]) / 1e9
    report("mergekit", given, {
        f"Time, mergekit {peer.VERSION}: {shape.describe(FINETUNES)}, {inputs:.3g} GB read and {result:.3g} GB "
        f"written; the floor is {bytes_alone}": times,
        "Peak memory in MiB: private to be at most 1,024, and with 16 contributions no more than with 4": memory,
        f"Largest distance from float32 torch, in bf16 steps, on {len(names)} tensors": results,
    })  # fmt: skip


def time_row(name: str, runs: Mapping[str, Sequence[Run]], bytes_alone: Floor) -> Row:
    """Whole processes against each other, the fuse alone against the floor."""
    ours, theirs = runs["hub_fusion"], runs.get("mergekit")
    fuse_s = median_fuse_s(ours)
    return {
        "method": name, "mergekit s": median_s(theirs) if theirs else None, "hub_fusion s": median_s(ours),
        "times as fast": median_s(theirs) / median_s(ours) if theirs else None, "goal": f"≥ {METHODS[name].goal:g}",
        "fuse alone s": fuse_s, "floor s": bytes_alone.seconds, "fuse / floor": fuse_s / bytes_alone.seconds,
        "fuse goal": METHODS[name].fuse_goal, "fuse / durable floor": fuse_s / bytes_alone.durable_s,
    }  # fmt: skip


def memory_row(name: str, count: int, runs: Mapping[str, Sequence[Run]]) -> Row:
    """Peaks of both programs; resident memory includes the pages of mapped inputs."""
    row: Row = {"method": name, "contributions": count}
    for program in ("hub_fusion", "mergekit"):
        for what, title in (("private_bytes", "private"), ("resident_bytes", "resident")):
            row[f"{program} {title}"] = peak_mib(runs[program], what) if program in runs else None
    return row


def linked(folder: Path, other: Path) -> Path:
    """The same checkpoint under another name, by hard links."""
    other.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if not (other / file.name).exists():
            os.link(file, other / file.name)
    return other


if __name__ == "__main__":
    main()
