"""On CUDA: how near mean and TIES come to the narrower of two rates, host to device and device to device.

    python benchmarks/fuse/gpu.py --work DIR --save

A base and eight finetunes of the 379M-parameter Llama. The rate of a fuse is its input bytes by the seconds of the fuse
alone; that of the link is measured with pinned memory, that of the device by copying within it. Goal: 70 % of the
narrower one. Reading from the page cache and writing the result bound a fuse as well: the floor is printed beside it.
Without CUDA it says so and ends with 0.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

from common import (
    SIZES,
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
COPY_BYTES, COPIES = 2**28, 20
METHODS = {"mean": ("-m", "mean"), "ties": ("-m", "ties", "--set", "density=0.2")}


def main() -> None:
    """One table, or one sentence."""
    options = parser(__doc__)
    options.add_argument("--methods", default=",".join(METHODS), help="some of them, with commas between")
    given = options.parse_args()
    if not has_cuda():
        print("skipped: this benchmark needs a CUDA device, and torch sees none here")
        return
    shape, link, device = SIZES[given.size], link_rate(), device_rate()
    narrower = min(link, device)
    with work_folder(given.work) as work:
        place = work / given.size
        base, finetunes = make_models(place, FINETUNES, shape)
        files, out = [base, *finetunes], place / "out"
        bytes_alone = floor(weight_files(files), size_of([base]), place / "scratch")
        rows, results = [], []
        for name in given.methods.split(","):
            print(f"{name}:", file=sys.stderr)
            arguments = METHODS[name]

            def fused(arguments: tuple[str, ...] = arguments) -> Run:
                return run(fuse_command(base, finetunes, fresh(out), *arguments))

            runs = alternately(given.runs, {"hub_fusion": fused})["hub_fusion"]
            rate = size_of(files) / median_fuse_s(runs)
            rows.append({
                "method": name, "device": runs[0].result["device"], "seconds": median_s(runs),
                "fuse alone s": median_fuse_s(runs), "floor s": bytes_alone.seconds, "fuse GB/s": rate / 1e9,
                "link GB/s": link / 1e9, "device copy GB/s": device / 1e9, "% of narrower": 100 * rate / narrower,
                "goal": "≥ 70", "private MiB": peak_mib(runs),
            })  # fmt: skip
            if name == "mean":
                steps = bf16_steps(out, sum_of_changes(base, finetunes, 1 / FINETUNES), sample(list(shape.tensors())))
                results.append({"method": name, "bf16 steps": steps, "within one step": steps <= 1})
            fresh(out)
        report("gpu", given, {
            f"{device_name()}: {shape.describe(FINETUNES)}; the floor is {bytes_alone}": rows, "Result": results,
        })  # fmt: skip


def has_cuda() -> bool:
    """Whether torch is there and sees a device."""
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def device_name() -> str:
    """What CUDA calls it."""
    import torch

    return torch.cuda.get_device_name()


def link_rate() -> float:
    """Bytes/s from pinned memory to the device."""
    import torch

    host = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    return rate_of(lambda: there.copy_(host, non_blocking=True))


def device_rate() -> float:
    """Bytes/s copied within the device; each is read and written."""
    import torch

    one, other = torch.empty((2, COPY_BYTES), dtype=torch.uint8, device="cuda")
    return rate_of(lambda: other.copy_(one))


def rate_of(copy: Callable[[], object]) -> float:
    """Bytes/s of copies of `COPY_BYTES`, after one that does not count."""
    import torch

    copy()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(COPIES):
        copy()
    torch.cuda.synchronize()
    return COPIES * COPY_BYTES / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
