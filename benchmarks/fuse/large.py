"""A model that does not fit in memory next to its finetunes: the shape of a 7B Llama and three finetunes, in shards.

    python benchmarks/fuse/large.py --size small
    python benchmarks/fuse/large.py --layers 8 --work DIR      # 15 GB of inputs; all 32 layers have 54 GB

TIES and mean by hub_fusion. What counts is peak private memory, which must not depend on the model's size. Inputs that
are larger than the page cache are read from the disk, by the floor too.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

from common import (
    MIB,
    SIZES,
    Llama,
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
SHARD_BYTES = 2 * 10**9
SPARE_BYTES = 2 * 10**9  # of the disk, for others
SHAPES = SIZES | {"full": Llama(32_000, 4096, 32, 11_008, 32)}
METHODS = {"mean": ("-m", "mean"), "ties": ("-m", "ties", "--set", "density=0.2")}


def main() -> None:
    """One table, or the reason why there is none."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, help="fewer than the model has, to fit the disk")
    options.add_argument("--methods", default=",".join(METHODS), help="some of them, with commas between")
    given = options.parse_args()
    shape = SHAPES[given.size]
    shape = replace(shape, layers=given.layers or shape.layers)
    with work_folder(given.work) as work:
        place = work / f"large-{given.size}-{shape.layers}"
        need = 2 * shape.parameters * (FINETUNES + 2) + SPARE_BYTES
        free = shutil.disk_usage(work).free + sum(f.stat().st_size for f in place.rglob("*.safetensors"))
        if need > free:
            print(f"skipped: base, {FINETUNES} finetunes and result of {shape.layers} layers need {need / 1e9:.0f} GB "
                  f"of disk, {work} has {free / 1e9:.0f} GB left: take fewer --layers or another --work")  # fmt: skip
            return
        base, finetunes = make_models(place, FINETUNES, shape, shard_bytes=SHARD_BYTES)
        files, out = [base, *finetunes], place / "out"
        bytes_alone = floor(weight_files(files), size_of([base]), place / "scratch", passes=1)
        rows, results = [], []
        for name in given.methods.split(","):
            print(f"{name}:", file=sys.stderr)
            arguments = METHODS[name]

            def fused(arguments: tuple[str, ...] = arguments) -> Run:
                return run(fuse_command(base, finetunes, fresh(out), *arguments))

            runs = alternately(given.runs, {"hub_fusion": fused})["hub_fusion"]
            rows.append({
                "method": name, "layers": shape.layers, "model MiB": size_of([base]) / MIB,
                "private MiB": peak_mib(runs), "goal": "≤ 1,024", "resident MiB": peak_mib(runs, "resident_bytes"),
                "seconds": median_s(runs), "fuse alone s": median_fuse_s(runs), "floor s": bytes_alone.seconds,
            })  # fmt: skip
            if name == "mean":
                names = sample(list(shape.tensors()), 3)
                steps = bf16_steps(out, sum_of_changes(base, finetunes, 1 / FINETUNES), names)
                results.append({"method": name, "tensors": len(names), "bf16 steps": steps,
                                "within one step": steps <= 1})  # fmt: skip
            fresh(out)
        report("large", given, {
            f"{shape.describe(FINETUNES)}, {size_of(files) / 1e9:.3g} GB read; the floor is {bytes_alone}": rows,
            "Result": results,
        })  # fmt: skip


if __name__ == "__main__":
    main()
