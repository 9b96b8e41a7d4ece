"""Fusing whole checkpoints: tensors streamed through a merge method into place, as a plan says.

For every tensor of the base: read the base's rows and every contribution's change of them, merge, add, write at its
offset. Body tensors take all contributions; shared heads (language-model heads, poolers) those that have them, with
the weights scaled up to 1; task heads are the base's, or left out; buffers are the base's. Tied weights are stored
once and so fused once. Memory holds a few blocks of all contributions for each thread, whatever the size of model or
tensor. Threads overlap reading, arithmetic and writing; many processes share the tensors by bytes and write into the
same files. The bytes do not depend on how many there are of either. A killed fuse goes on where it stopped.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HubError, WeightsError
from hub_fusion.weights import journal, residual, writer
from hub_fusion.weights.arithmetic import Arithmetic, Fused
from hub_fusion.weights.checkpoint import Checkpoint, TensorSpec
from hub_fusion.weights.places import SPOOL, at_hand
from hub_fusion.weights.plan import FusePlan, OpenPlan, describe, open_plan, weights_sha256
from hub_fusion.weights.schedule import Bundle, run
from hub_fusion.weights.stream import read_ahead
from hub_fusion.weights.survey import survey
from hub_fusion.weights.tensors import TensorWork, works_of

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.places import Place

__all__ = ["FusePlan", "FuseReport", "copy_side_files", "describe", "folder_sha256", "fuse", "weights_sha256"]

STALE = (".bin", ".h5", ".msgpack", ".pt", ".pth", ".ckpt", ".onnx", ".gguf", ".safetensors", ".safetensors.index.json",
         ".bin.index.json")  # fmt: skip
Progress = Callable[[int, int], None]  # bytes written so far by this process, and of its share


@dataclass(frozen=True)
class FuseReport:
    """What came of it."""

    files: dict[str, str]  # weight file → sha256
    tensors: int
    bytes_written: int
    processes: int
    device: str
    seconds: float
    dropped: tuple[str, ...]  # task heads left out
    bytes_read: int = 0  # of all inputs by this process, each time they were read
    bytes_resumed: int = 0  # found written by an earlier run of this process's share
    notes: tuple[str, ...] = ()  # what of the inputs was not used, or used under another name
    residual: tuple[str, ...] = ()  # files with what rounding lost

    @property
    def weights_sha256(self) -> str:
        """One hash for the whole checkpoint."""
        return weights_sha256(self.files)


def folder_sha256(folder: Path) -> str:
    """`FuseReport.weights_sha256` of a checkpoint that is on disk already."""
    return weights_sha256(residual.file_hashes(Checkpoint.open(folder)))


def fuse(plan: FusePlan, compute: Compute, progress: Progress | None = None) -> FuseReport:
    """Carry out a plan in all processes (see Compute.together); the output folder loads with from_pretrained.

    Raises WeightsError, listing all offenders, before a single weight is read, and where an input or a result turns
    out not to be finite; MergeError for a bad method or option.
    """
    began = time.monotonic()
    opened = open_plan(plan)  # what is impossible ends here, before anything is downloaded
    here = at_hand(plan, compute)
    if here is not plan:
        plan, opened = here, open_plan(here)
    opened, notes = _bound(opened, compute)
    specs = opened.specs
    if opened.kept or opened.residual:  # summed before it is rounded, which only the CPU does
        arithmetic = Arithmetic(opened.formula, plan.step, plan.seed)
    else:
        arithmetic = compute.arithmetic(opened.formula, plan)
    begun = journal.plan_id([opened.id, compute.device.split(":")[0], arithmetic.elements])  # blocks as those it left
    refused = compute.gather(_begin(opened, begun) if compute.is_main else None)[0]  # told to all, who would wait
    if refused:
        raise WeightsError(refused)
    share = {spec.name for spec in _shares(specs, compute.processes)[compute.rank]}
    works = works_of(opened, arithmetic.elements)
    hashes: dict[str, str] = {}
    resumed, fault = 0, None
    try:
        with compute.one_thread_each(torch_too=not arithmetic.twin):
            survey(arithmetic, works, compute)
            mine = [work for work in works if work.name in share]
            resumed, hashes = _write_all(opened, begun, mine, arithmetic, compute, progress)
    except (WeightsError, HubError) as error:
        fault = str(error)
    faults = [told for told in compute.gather(fault) if told]
    if faults:
        if compute.is_main:
            remove_checkpoint(plan.out)
            shutil.rmtree(plan.out / SPOOL, ignore_errors=True)
        raise WeightsError(faults[0])
    if compute.is_main:
        hashes = hashes or writer.hash_files(plan.out, opened.layout, compute.threads)
        residual.bind(plan.out, opened.kept, weights_sha256(hashes))
        writer.finish(plan.out, opened.layout)
        copy_side_files(plan.base, plan.out)
        journal.remove(plan.out)
        shutil.rmtree(plan.out / SPOOL, ignore_errors=True)
    compute.barrier()
    read = {id(c): c.bytes_read for d in opened.deltas for c in (d.files, d.origin, opened.base)}
    return FuseReport(hashes, len(specs), sum(s.size_bytes for s in specs), compute.processes, compute.device,
                      time.monotonic() - began, opened.dropped, sum(read.values()), resumed, notes,
                      tuple(opened.kept))  # fmt: skip


def _bound(opened: OpenPlan, compute: Compute) -> tuple[OpenPlan, tuple[str, ...]]:
    """Without the base's residual if that is another checkpoint's; and the notes. Reads the base's weights once."""
    found = opened.residual
    if found is None:
        return opened, opened.notes
    same = not compute.is_main or weights_sha256(residual.hashes_of(opened.base, opened.plan.base)) == residual.binding(
        found
    )
    if all(compute.gather(same)):
        return opened, opened.notes
    note = (
        f"the residual in {opened.plan.base} is ignored: it belongs to other weights ({residual.binding(found)[:8]}…)"
    )
    return replace(opened, residual=None), (*opened.notes, note)


def _begin(opened: OpenPlan, begun: str) -> str | None:
    """Make the partial files, or find those of an earlier run of this very plan that was killed; or why not."""
    out = opened.plan.out
    if journal.finished(out, begun) and writer.reopen(out, opened.layout | opened.kept):
        return None
    remove_checkpoint(out)
    out.mkdir(parents=True, exist_ok=True)
    need = sum(s.size_bytes for specs in (opened.layout | opened.kept).values() for s in specs)
    if need > (free := shutil.disk_usage(out).free):
        return f"the result has {need:,} bytes, and the disk of {out} has {free:,} left: make room"
    writer.prepare(out, opened.base, opened.layout)
    residual.prepare(out, opened.kept)
    journal.begin(out, begun)
    return None


def _write_all(
    opened: OpenPlan, begun: str, works: list[TensorWork], arithmetic: Arithmetic, compute: Compute,
    progress: Progress | None,
) -> tuple[int, dict[str, str]]:  # fmt: skip
    """Write every block of this process's share; gives the bytes that were there, and file → sha256 if it was alone."""
    out, done = opened.plan.out, journal.finished(opened.plan.out, begun)
    output = writer.Output(out, opened.layout | opened.kept)
    keeping = {spec.name: spec for specs in opened.kept.values() for spec in specs}
    hashing = writer.RunningHashes(out, opened.layout) if compute.processes == 1 else None
    total, written, resumed = sum(work.out.size_bytes for work in works), 0, 0

    def place(work: TensorWork, number: int) -> tuple[int, int]:
        start, stop = work.range(*work.blocks[number])
        return start * work.item_bytes, stop * work.item_bytes

    def finished(work: TensorWork, number: int) -> None:
        nonlocal written
        start, stop = place(work, number)
        if hashing:
            hashing.done(work.out, start, stop)
        written += stop - start
        if progress:
            progress(written, total)

    left = []
    for work in works:
        there = done.get(work.number, set())
        for number in sorted(there):
            start, stop = place(work, number)
            resumed += stop - start
            finished(work, number)
        work.todo = [number for number in range(len(work.blocks)) if number not in there]
        if work.todo:
            left.append(work)
    try:
        with journal.Journal(out, compute.rank, output.sync) as log:

            def fused(bundle: Bundle) -> Iterator[Fused]:
                if not opened.kept and not opened.residual:
                    yield from arithmetic.fuse_all(opened.base, bundle)
                    return
                for work, number in bundle:
                    rows = work.blocks[number]
                    if work.name in keeping or (opened.residual and work.name in opened.residual):
                        data, lost = residual.fuse_keeping(arithmetic, work, opened.base, opened.residual, *rows)
                        if work.name in keeping:
                            output.write(keeping[work.name], lost, place(work, number)[0])  # both have 16 bits
                        yield work, number, data
                    else:
                        yield work, number, arithmetic.fuse(work, opened.base, *rows)

            def blocks(bundle: Bundle) -> None:
                for work, number, data in fused(bundle):
                    output.write(work.out, data, place(work, number)[0])
                    log.done(work.number, number)
                    finished(work, number)
                    work.block_done()

            threads = arithmetic.threads(compute.threads)
            with read_ahead(left, opened.base, opened.residual):
                run(left, threads, arithmetic.preparations, blocks, arithmetic.bundle)
        return resumed, hashing.finish() if hashing else {}
    except BaseException:
        if hashing:
            hashing.stop()
        raise
    finally:
        output.close()


def _shares(specs: list[TensorSpec], processes: int) -> list[list[TensorSpec]]:
    """Tensors split over processes: the largest first, each to whoever has the fewest bytes so far."""
    shares: list[list[TensorSpec]] = [[] for _ in range(processes)]
    load = [0] * processes
    for spec in sorted(specs, key=lambda s: (-s.size_bytes, s.name)):
        lightest = load.index(min(load))
        shares[lightest].append(spec)
        load[lightest] += spec.size_bytes + 4096  # a tensor costs something however small it is
    return shares


def remove_checkpoint(folder: Path) -> None:
    """Take an earlier checkpoint, whole or half written, out of a folder; weights under other names stay."""
    journal.remove(folder)
    residual.remove(folder)
    for path in folder.glob("model*.safetensors*") if folder.is_dir() else ():
        if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?(\.partial)?", path.name):
            path.unlink()


def copy_side_files(base: Place, out: Path) -> None:
    """Configuration, tokenizer and processor files of the base; no weights of any format, no card, no code."""
    if not isinstance(base, Path):
        return base.fetch_side_files(out)
    for path in sorted(base.iterdir()):
        skip = path.name.startswith(".") or path.name == "README.md" or path.name.endswith((*STALE, ".py", ".partial"))
        if path.is_file() and not skip:
            shutil.copyfile(path, out / path.name)
