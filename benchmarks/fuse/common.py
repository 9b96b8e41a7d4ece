"""What the fuse benchmarks share: inputs, a program run and measured, the floor, the check, the table.

Inputs are real safetensors in bf16 with the tensors and the config.json of a Llama, and random weights: a block of
normal numbers, repeated. Base N(0, 0.02²); a finetune is the base plus N(0, 0.0003²), rounded to bf16, so that many
changes are equal in size, as they are in real finetunes. Programs are timed whole, from the interpreter's start to its
end. Private memory is RssAnon of /proc/PID/status: what no file backs; pages of mapped inputs are the page cache's.
Not covered: peaks shorter than the sampling interval; memory on a device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

HERE = Path(__file__).resolve().parent
MIB = 2**20
SAMPLE_S = 0.02
BUSY = 0.5  # mean number of running processes of others above which times should not be published
READ_BYTES = 8 * MIB  # the floor's buffer: in one core's share of the cache, and few system calls
BLOCK = 2**24 - 3  # numbers in the random block; odd, so that no two tensors of a model begin at the same place in it
BASE_STD, DELTA_STD = 0.02, 3e-4
Row = dict[str, Any]  # column → value; the same for the printed table and for the JSON


# --- the command line ------------------------------------------------------------------------------------------------


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=list(SIZES), default="full", help="of the model; full is what goals are for")
    made.add_argument("--work", type=Path, help="keep the inputs here for the next run; default: a temporary folder")
    made.add_argument("--runs", type=int, default=3, help="timed runs after a warm-up; 0: one run, not warmed up")
    made.add_argument("--save", type=Path, nargs="?", const=HERE / "results", help="write JSON to results/, or here")
    made.set_defaults(load=os.getloadavg()[0])  # before we make any
    return made


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder for inputs and outputs: the given one, which stays, or a temporary one."""
    if given:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="bench-fuse-") as folder:
            yield Path(folder)


def report(name: str, options: argparse.Namespace, tables: Mapping[str, Sequence[Row]]) -> None:
    """Print the tables as Markdown; with --save write ``<name>.json`` too."""
    from hub_fusion.provenance import versions

    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "size": options.size,
        "runs": options.runs,
        "hardware": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform(),
                     "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                     "load_at_the_start": options.load},
        "versions": versions() | {name: version(name) for name in ("numpy", "numba")},
    }  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    print(f"\n{name}, {options.size}: {cores} cores, {_cpu()}, load {options.load:.1f} at the start")
    if options.load > BUSY:
        print("The machine was busy with other work: times are upper bounds, and ratios are those of this hour.")
    for title, rows in tables.items():
        if rows:
            print(f"\n{title}\n\n{markdown(rows)}")
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        path = options.save / f"{name}.json"
        path.write_text(json.dumps(facts | {"tables": tables}, indent=1, ensure_ascii=False) + "\n")
        print(f"\nwrote {path}")


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table whose columns are the first row's keys."""
    cells = [list(rows[0]), *([_cell(row[column]) for column in rows[0]] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(c.ljust(w) for c, w in zip(line, widths, strict=True))} |" for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
    return "–" if value is None else str(value)


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


# --- inputs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Llama:
    """The shape of a Llama."""

    vocabulary: int
    hidden: int
    layers: int
    intermediate: int
    heads: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name → shape, in the order of the file."""
        wide, inner = self.hidden, self.intermediate
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, wide)}
        for layer in range(self.layers):
            block = f"model.layers.{layer}"
            found |= {f"{block}.self_attn.{name}_proj.weight": (wide, wide) for name in "qkvo"}
            found |= {f"{block}.mlp.{name}_proj.weight": (inner, wide) for name in ("gate", "up")}
            found |= {f"{block}.mlp.down_proj.weight": (wide, inner)}
            found |= {f"{block}.{name}_layernorm.weight": (wide,) for name in ("input", "post_attention")}
        return found | {"model.norm.weight": (wide,), "lm_head.weight": (self.vocabulary, wide)}

    def config(self) -> dict[str, Any]:
        """What config.json says."""
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": self.vocabulary,
            "hidden_size": self.hidden, "num_hidden_layers": self.layers, "intermediate_size": self.intermediate,
            "num_attention_heads": self.heads, "num_key_value_heads": self.heads, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "dtype": "bfloat16",
        }  # fmt: skip

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.tensors().values()))

    def describe(self, finetunes: int = 0) -> str:
        """For a table's title: ``base + 8 finetunes, 379M parameters in bf16``."""
        rest = f" + {finetunes} finetunes" if finetunes else ""
        return f"base{rest}, {self.parameters / 1e6:,.3g}M parameters in bf16"


SIZES = {
    "full": Llama(32_000, 1024, 24, 2880, 16),  # 379 million parameters, 0.76 GB
    "small": Llama(20_000, 384, 8, 1024, 6),  # 30 million
    "tiny": Llama(512, 64, 2, 160, 2),  # 0.16 million, for the tests
}


class Shape(Protocol):
    """What a model is made from."""

    def tensors(self) -> dict[str, tuple[int, ...]]: ...
    def config(self) -> dict[str, Any]: ...


def make_models(
    place: Path, finetunes: int, shape: Shape, *, shard_bytes: int = 1 << 62
) -> tuple[Path, list[Path]]:  # fmt: skip
    """The folders ``base`` and ``finetune-0`` … in `place`, made unless they are there."""
    tensors = shape.tensors()
    length = min(BLOCK, sum(map(prod, tensors.values())))
    base = bf16(np.random.default_rng(0).standard_normal(length, np.float32) * np.float32(BASE_STD))
    folders = [place / "base", *(place / f"finetune-{i}" for i in range(finetunes))]
    for seed, folder in enumerate(folders):
        if folder.is_dir():
            continue
        block = base
        if seed:
            delta = np.random.default_rng(seed).standard_normal(length, np.float32) * np.float32(DELTA_STD)
            block = bf16((base.astype(np.uint32) << 16).view(np.float32) + delta)
        write_checkpoint(folder, tensors, shape.config(), block, shard_bytes)
    return folders[0], folders[1:]


def bf16(values: np.ndarray) -> np.ndarray:
    """The bits of finite float32 numbers rounded to bf16, to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_checkpoint(
    folder: Path, tensors: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], block: np.ndarray, shard_bytes: int
) -> None:
    """A bf16 checkpoint that holds `block` over and over; in shards with an index if it is over `shard_bytes`."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in tensors.items():
        if shards[-1] and 2 * prod(shape) + sum(2 * prod(s) for s in shards[-1].values()) > shard_bytes:
            shards.append({})
        shards[-1][name] = shape
    count, made = len(shards), folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    weight_map = {}
    for number, part in enumerate(shards, 1):
        file = "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
        write_safetensors(made / file, {name: ("BF16", shape) for name, shape in part.items()}, block)
        weight_map |= dict.fromkeys(part, file)
    if count > 1:
        index = {"metadata": {"total_size": sum(2 * prod(s) for s in tensors.values())}, "weight_map": weight_map}
        (made / "model.safetensors.index.json").write_text(json.dumps(index))
    (made / "config.json").write_text(json.dumps(config, indent=1))
    made.rename(folder)


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], block: np.ndarray) -> None:
    """Tensors of one dtype (name → dtype, shape), whose numbers are `block` over and over."""
    header, end = dict[str, Any](__metadata__={"format": "pt"}), 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * block.itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data = block.view(np.uint8).data
        for start in range(0, end, len(data)):
            file.write(data[: end - start])


def size_of(folders: Sequence[Path]) -> int:
    """Bytes of the safetensors in these folders."""
    return sum(file.stat().st_size for file in weight_files(folders))


def weight_files(folders: Sequence[Path]) -> list[Path]:
    """The safetensors in these folders."""
    return [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]


# --- programs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of a program, children included. Peaks are of samples, every 20 ms."""

    seconds: float
    private_bytes: int  # peak of RssAnon
    resident_bytes: int  # peak of VmRSS: with libraries and the pages of mapped files
    mapped_bytes: int  # peak of RssFile
    read_bytes: int  # by read(2) and its kin (rchar); reading mapped files does not count
    stdout: str

    @property
    def result(self) -> dict[str, Any]:
        """The last line of stdout, which is JSON."""
        found: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return found


def run(command: Sequence[str | Path], *, cwd: Path | None = None, **environment: str) -> Run:
    """Run a program and measure it. Raises RuntimeError with the end of its stderr if it fails."""
    given = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}  # all cores
    peaks, over = dict.fromkeys(("RssAnon", "VmRSS", "RssFile"), 0), threading.Event()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command], stdout=out, stderr=err, cwd=cwd, env=given | environment
        )
        sampler = threading.Thread(target=_sample, args=(process.pid, peaks, over))
        sampler.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # ended, but not yet gone from /proc
        seconds = time.perf_counter() - began
        over.set()
        sampler.join()
        read = _fields(Path(f"/proc/{process.pid}/io")).get("rchar", 0)
        process.wait()
        for stream in (out, err):
            stream.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{err.read()[-4000:]}")
        return Run(seconds, peaks["RssAnon"], peaks["VmRSS"], peaks["RssFile"], read, out.read())


def _sample(pid: int, peaks: dict[str, int], over: threading.Event) -> None:
    """Keep the largest sums over a process and its descendants until `over`."""
    while not over.wait(SAMPLE_S):
        found = [_fields(Path(f"/proc/{p}/status")) for p in _family(pid)]
        for name in peaks:
            peaks[name] = max(peaks[name], 1024 * sum(fields.get(name, 0) for fields in found))


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return [pid, *chain.from_iterable(map(_family, children))]


def _fields(path: Path) -> dict[str, int]:
    """``name: number …`` lines of a file in /proc; none if the process is gone."""
    found = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            first = value.split()[:1]
            if first and first[0].isdecimal():
                found[name] = int(first[0])
    return found


def fuse_command(
    base: Path | str, contributions: Sequence[Path | str], out: Path, *options: str
) -> list[str | Path]:  # fmt: skip
    """``hub-fusion fuse`` that ends with its report in JSON."""
    return [sys.executable, "-m", "hub_fusion", "fuse", base, *contributions, "--out", out, "--json", *options]


def fresh(folder: Path) -> Path:
    """The name of a folder that is not there any more."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def alternately(runs: int, programs: Mapping[str, Callable[[], Run]]) -> dict[str, list[Run]]:
    """Name → its timed runs: a warm-up of each that does not count, then in turn, so that a busy hour hits all."""
    found: dict[str, list[Run]] = {name: [] for name in programs}
    for number in range(runs + 1):
        for name, program in programs.items():
            print(f"  {name}, {'run ' + str(number) if number else 'warm-up'} …", file=sys.stderr, flush=True)
            done = program()
            if number or not runs:
                found[name].append(done)
    return found


def median_s(runs: Sequence[Run]) -> float:
    """The median of the wall times."""
    return statistics.median(run.seconds for run in runs)


def median_fuse_s(runs: Sequence[Run]) -> float:
    """The median of what hub_fusion reports: reading, merging, writing and hashing, without starting up."""
    return statistics.median(float(run.result["seconds"]) for run in runs)


def peak_mib(runs: Sequence[Run], what: str = "private_bytes") -> float:
    """The largest peak of all runs."""
    return max(getattr(run, what) for run in runs) / MIB


# --- what cannot be beaten, and what must be true --------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """Seconds for the bytes alone."""

    read_s: float
    write_s: float  # into the page cache
    sync_s: float  # from there to the disk, where a fuse has its result when it ends

    @property
    def seconds(self) -> float:
        """Of reading and writing, with nothing on the disk yet."""
        return self.read_s + self.write_s

    @property
    def durable_s(self) -> float:
        """Until the result would survive a power cut, as that of a fuse does."""
        return self.seconds + self.sync_s

    def __str__(self) -> str:
        return f"{self.read_s:.2f} s of reading and {self.write_s:.2f} s of writing, {self.sync_s:.2f} s to sync"


def floor(files: Sequence[Path], out_bytes: int, scratch: Path, *, passes: int = 3) -> Floor:
    """Reading all files once from the page cache and writing `out_bytes` once, by two threads; the best of `passes`.

    A first pass that does not count brings the files into the page cache.
    """
    reads = [(file, at) for file in files for at in range(0, file.stat().st_size, 64 * MIB)]
    writes = [(scratch, at) for at in range(0, out_bytes, 64 * MIB)]
    read_s, write_s, sync_s = [], [], []
    for _ in range(passes + 1):
        read_s.append(_by_two_threads(_read, reads))
        write_s.append(_by_two_threads(lambda path, at, buffer: _write(path, at, out_bytes, buffer), writes))
        sync_s.append(_sync(scratch))
        scratch.unlink()
    return Floor(min(read_s[1:]), min(write_s[1:]), min(sync_s[1:]))


def _sync(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb") as file:
        os.fdatasync(file.fileno())
    return time.perf_counter() - began


def _by_two_threads(work: Callable[[Path, int, memoryview], None], pieces: Sequence[tuple[Path, int]]) -> float:
    """Seconds for all pieces, every second one by each thread, which has one buffer."""

    def half(number: int) -> None:
        buffer = memoryview(bytearray(READ_BYTES))
        for path, at in pieces[number::2]:
            work(path, at, buffer)

    with ThreadPoolExecutor(2) as pool:
        began = time.perf_counter()
        list(pool.map(half, range(2)))
        return time.perf_counter() - began


def _read(path: Path, at: int, buffer: memoryview) -> None:
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        for _ in range(64 * MIB // READ_BYTES):
            if file.readinto(buffer) < READ_BYTES:
                break


def _write(path: Path, at: int, out_bytes: int, buffer: memoryview) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)
    for start in range(at, min(at + 64 * MIB, out_bytes), READ_BYTES):
        os.pwrite(handle, buffer[: out_bytes - start], start)
    os.close(handle)


def bf16_steps(result: Path, reference: Callable[[str], Any], names: Sequence[str]) -> float:
    """The largest distance of the tensors `names` in the folder `result` from ``reference(name)`` in float32, in steps.

    A step is the distance of two neighbouring bf16 numbers at the reference, where that is more than 2⁻¹² of the
    tensor's largest; at less than that, float32 sums in another order may differ. Rounding to nearest gives 0.5.
    """
    import torch

    worst = 0.0
    for name in names:
        wanted = reference(name)
        scale = wanted.abs().clamp(min=float(wanted.abs().max()) * 2**-12)
        step = torch.ldexp(torch.ones_like(scale), torch.frexp(scale).exponent - 8)  # x = m·2ᵉ with ½ ≤ m < 1
        worst = max(worst, float(((tensor(result, name) - wanted).abs() / step).max()))
    return worst


def sum_of_changes(base: Path, finetunes: Sequence[Path], factor: float) -> Callable[[str], Any]:
    """Name → base + factor·Σ (finetune − base), in plain float32 torch."""

    def reference(name: str) -> Any:
        start = tensor(base, name)
        return start + factor * sum(tensor(finetune, name) - start for finetune in finetunes)

    return reference


def tensor(folder: Path, name: str) -> Any:
    """One tensor of a checkpoint in float32, read by the safetensors library."""
    from safetensors import safe_open

    for file in weight_files([folder]):
        with safe_open(file, "pt") as opened:
            if name in opened.keys():  # noqa: SIM118 - not a dict
                return opened.get_tensor(name).float()
    raise KeyError(f"{folder} has no tensor {name}")


def sample(names: Sequence[str], count: int = 6) -> list[str]:
    """`count` names from first to last."""
    return list(dict.fromkeys(names[round(i * (len(names) - 1) / (count - 1))] for i in range(count)))
