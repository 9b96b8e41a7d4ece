"""Many adapters on one base: 64 LoRA adapters of rank 16, of all linear layers of a Llama, by the mean.

    python benchmarks/fuse/adapters.py --size small
    python benchmarks/fuse/adapters.py --work DIR --save       # 379M parameters: 0.76 GB, and 64 times 31 MB in float32

Adapters lie as PEFT writes them. The question is whether the adapters' bytes and the base's are read once, and nothing
is made as large as the model. "Read" is what the process asked for with read(2) and its kin (rchar of /proc/PID/io).
"Mapped" is the peak of resident pages of mapped files (RssFile): what is read in place shows there, but once, however
often it is used. Of both, what a --dry-run of the same fuse needs (libraries, headers, a block to time) is taken off,
and of "read" also the result, which is read back once, to hash it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
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
    tensor,
    weight_files,
    work_folder,
    write_safetensors,
)

RANK, ALPHA, STD = 16, 32, 0.02
COUNTS = {"full": 64, "small": 64, "tiny": 5}


def main() -> None:
    """One table."""
    given = parser(__doc__).parse_args()
    shape, count = SIZES[given.size], COUNTS[given.size]
    with work_folder(given.work) as work:
        place = work / given.size
        base, _ = make_models(place, 0, shape)
        adapters = [make_adapter(place / f"adapter-{seed:02}", shape, base, seed) for seed in range(count)]
        out, inputs = place / "out", [base, *adapters]
        bytes_alone = floor(weight_files(inputs), size_of([base]), place / "scratch")

        def fused() -> Run:
            return run(fuse_command(base, adapters, fresh(out), "-m", "mean"))

        runs = alternately(given.runs, {"hub_fusion": fused})["hub_fusion"]
        planned = run(fuse_command(base, adapters, place / "never", "-m", "mean", "--dry-run"))
        names = [*sample(adapted(shape), 4), "model.norm.weight", "lm_head.weight"]
        steps = bf16_steps(out, mean_of_products(base, adapters), names)
        there_are, result_bytes = size_of(inputs), size_of([out])
        fresh(out)
        read = max(done.read_bytes for done in runs) - planned.read_bytes - result_bytes
        mapped = max(done.mapped_bytes for done in runs) - planned.mapped_bytes
        row = {
            "adapters": count, "seconds": median_s(runs), "fuse alone s": median_fuse_s(runs),
            "floor s": bytes_alone.seconds, "adapters and base MiB": there_are / MIB, "read MiB": read / MIB,
            "read / there are": read / there_are, "mapped MiB": max(mapped, 0) / MIB, "private MiB": peak_mib(runs),
            "resident MiB": peak_mib(runs, "resident_bytes"),
        }  # fmt: skip
        report("adapters", given, {
            f"{count} LoRA adapters of rank {RANK} in float32, on a {shape.describe()}; goal: read once (1.00)": [row],
            "Result": [{"tensors": len(names), "bf16 steps": steps, "within one step": steps <= 1}],
        })  # fmt: skip


def adapted(shape: Llama) -> list[str]:
    """The weights of all linear layers."""
    return [name for name in shape.tensors() if name.endswith("_proj.weight")]


def make_adapter(folder: Path, shape: Llama, base: Path, seed: int) -> Path:
    """``adapter_model.safetensors`` and ``adapter_config.json``, made unless they are there."""
    if folder.is_dir():
        return folder
    tensors = dict[str, tuple[str, tuple[int, ...]]]()
    for name in adapted(shape):
        rows, columns = shape.tensors()[name]
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors |= {f"{module}.lora_A.weight": ("F32", (RANK, columns)),
                    f"{module}.lora_B.weight": ("F32", (rows, RANK))}  # fmt: skip
    count = sum(prod(size) for _, size in tensors.values())
    made = folder.with_name(f"{folder.name}.partial")
    made.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng([1, seed]).standard_normal(count, np.float32) * np.float32(STD)
    write_safetensors(made / "adapter_model.safetensors", tensors, numbers)
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "inference_mode": True, "fan_in_fan_out": False,
        "use_rslora": False, "use_dora": False, "modules_to_save": None,
        "target_modules": sorted({name.split(".")[-2] for name in adapted(shape)}),
    }  # fmt: skip
    (made / "adapter_config.json").write_text(json.dumps(config, indent=1))
    return made.rename(folder)


def mean_of_products(base: Path, adapters: Sequence[Path]) -> Callable[[str], Any]:
    """Name → base + the mean of (α/r)·B·A, in plain float32 torch."""

    def reference(name: str) -> Any:
        start = tensor(base, name)
        if not name.endswith("_proj.weight"):
            return start
        module = f"base_model.model.{name.removesuffix('.weight')}"
        changes = sum(tensor(a, f"{module}.lora_B.weight") @ tensor(a, f"{module}.lora_A.weight") for a in adapters)
        return start + ALPHA / RANK / len(adapters) * changes

    return reference


if __name__ == "__main__":
    main()
