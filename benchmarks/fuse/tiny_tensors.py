"""What a tensor costs, however small: 8,000 tensors of 4×4 from a base and three finetunes, by the mean.

    python benchmarks/fuse/tiny_tensors.py
    python benchmarks/fuse/tiny_tensors.py --with-mergekit     # which takes minutes: it is quadratic in the tensors

The model is a layout of its own (a Llama cannot have as many square matrices of one size); hub_fusion asks for names
and shapes only. Goal: at most 5 s for the whole process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import peer
from common import (
    SIZES,
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

FINETUNES = 3
COUNTS = {"full": 8000, "small": 1000, "tiny": 50}


@dataclass(frozen=True)
class Many:
    """A model of many small matrices."""

    count: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in the order of the file."""
        return {f"model.layers.{number}.weight": (4, 4) for number in range(self.count)}

    def config(self) -> dict[str, Any]:
        """What config.json says; mergekit takes the names of an architecture that it does not know from the files."""
        return SIZES["tiny"].config() | {"architectures": ["ManyForCausalLM"]}


def main() -> None:
    """One table."""
    options = parser(__doc__)
    options.add_argument("--with-mergekit", action="store_true", help="run it too")
    peer.add_options(options)
    given = options.parse_args()
    shape = Many(COUNTS[given.size])
    names = list(shape.tensors())
    program = peer.mergekit_program(given.mergekit_venv) if given.with_mergekit else None
    with work_folder(given.work) as work:
        place = work / f"tiny-tensors-{given.size}"
        base, finetunes = make_models(place, FINETUNES, shape)
        files, out, out_theirs = [base, *finetunes], place / "out", place / "out-mergekit"
        bytes_alone = floor(weight_files(files), size_of([base]), place / "scratch")

        def ours() -> Run:
            return run(fuse_command(base, finetunes, fresh(out), "-m", "mean"))

        def theirs() -> Run:
            assert program
            config = peer.write_config(place / "mean.json", "linear", {"weight": 1.0}, base, finetunes)
            return peer.run_mergekit(program, config, out_theirs)

        runs = alternately(given.runs, {"hub_fusion": ours} | ({"mergekit": theirs} if program else {}))
        steps = bf16_steps(out, sum_of_changes(base, finetunes, 1 / FINETUNES), sample(names))
        rows = [row(name, done, len(names)) for name, done in runs.items()]
    title = f"{len(names):,} tensors of 4×4 in bf16, mean of {FINETUNES} finetunes; the floor is {bytes_alone}"
    report("tiny_tensors", given, {title: rows, "Result": [{"bf16 steps": steps, "within one step": steps <= 1}]})


def row(name: str, runs: list[Run], tensors: int) -> Row:
    """The process, and the fuse alone where it is known."""
    fuse_s = median_fuse_s(runs) if name == "hub_fusion" else None
    return {"program": name, "seconds": median_s(runs), "goal": "≤ 5" if fuse_s is not None else None,
            "fuse alone s": fuse_s, "µs per tensor": fuse_s / tensors * 1e6 if fuse_s is not None else None,
            "private MiB": peak_mib(runs), "resident MiB": peak_mib(runs, "resident_bytes")}  # fmt: skip


if __name__ == "__main__":
    main()
