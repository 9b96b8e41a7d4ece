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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.errors import HubFusionError, HubUnreachable, OutputError, WeightsError
from hub_fusion.weights import journal, residual, writer
from hub_fusion.weights.added_rows import take_tokenizer
from hub_fusion.weights.arithmetic import Arithmetic
from hub_fusion.weights.checkpoint import Checkpoint, weights_sha256
from hub_fusion.weights.compiled import load
from hub_fusion.weights.names import some
from hub_fusion.weights.places import SPOOL, at_hand
from hub_fusion.weights.plan import FusePlan, OpenPlan, describe, open_plan
from hub_fusion.weights.share import Progress, shares, write_all
from hub_fusion.weights.side_files import copy_side_files
from hub_fusion.weights.survey import survey
from hub_fusion.weights.tensors import works_of
from hub_fusion.weights.tokens import write_tokens
from hub_fusion.weights.vocabulary import rows_in

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute

__all__ = ["FusePlan", "FuseReport", "copy_side_files", "describe", "folder_sha256", "fuse", "weights_sha256"]


@dataclass(frozen=True)
class FuseReport:
    """What came of it."""

    files: dict[str, str]  # weight file → sha256
    tensors: int
    bytes_written: int
    processes: int
    device: str
    seconds: float  # from the plan to the last rename, after the libraries were loaded
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
    out not to be finite; MergeError for a bad method or option. OutputError (a full disk, say) and HubUnreachable leave
    what is done, and the same call goes on from there.
    """
    load()
    began = time.monotonic()
    opened = open_plan(plan)  # what is impossible ends here, before anything is downloaded
    with journal.alone(plan.out) if compute.is_main else nullcontext(), compute.alike(), _writing(plan.out):
        here = at_hand(plan, compute)
        if here is not plan:
            plan, opened = here, open_plan(here)
        opened, notes = _bound(opened, compute)
        report = _fuse(opened, compute, progress)
    return replace(report, seconds=time.monotonic() - began, notes=(*notes, *report.notes))


def _fuse(opened: OpenPlan, compute: Compute, progress: Progress | None) -> FuseReport:
    plan, specs = opened.plan, opened.specs
    if opened.kept or opened.residual:  # summed before it is rounded, which only the CPU does
        arithmetic = Arithmetic(opened.formula, plan.step, plan.seed)
    else:
        arithmetic = compute.arithmetic(opened.formula, plan)
    works = works_of(opened, arithmetic.elements)
    blocks = [(len(work.blocks), work.blocks[:1]) for work in works]  # as those that it left
    begun = journal.plan_id([opened.id, compute.device.split(":")[0], blocks])
    if compute.is_main:
        _begin(opened, begun)
    compute.gather(None)
    share = {spec.name for spec in shares(specs, compute.processes)[compute.rank]}
    try:
        with compute.alike(), _writing(plan.out), compute.one_thread_each(torch_too=not arithmetic.twin):
            survey(arithmetic, works, compute)
            mine = [work for work in works if work.name in share]
            done = write_all(opened, begun, mine, arithmetic, compute, progress)
    except HubFusionError as error:
        if compute.is_main and not isinstance(error, (OutputError, HubUnreachable)):
            remove_checkpoint(plan.out)
            shutil.rmtree(plan.out / SPOOL, ignore_errors=True)
        raise
    hashes = done.hashes
    if compute.is_main:
        hashes = hashes or writer.hash_files(plan.out, opened.layout, compute.threads)
        residual.bind(plan.out, opened.kept, weights_sha256(hashes))
        copy_side_files(plan.base, plan.out, plan.dtype)
        if plan.tokens:
            write_tokens(plan.out, plan.tokens, vocabulary_sizes(opened))
        elif opened.added:
            take_tokenizer(opened.base, opened.deltas, opened.added.more, plan.out)
        writer.finish(plan.out, opened.layout)
        journal.remove(plan.out)
        shutil.rmtree(plan.out / SPOOL, ignore_errors=True)
    notes = ("read in part, so that the Hub's sha256 could not be compared: "
             f"{some(done.unchecked)}",) if done.unchecked else ()  # fmt: skip
    read = {id(c): c.bytes_read for d in opened.deltas for c in (d.files, d.origin, opened.base)}
    return FuseReport(hashes, len(specs), sum(s.size_bytes for s in specs), compute.processes, compute.device, 0.0,
                      opened.dropped, sum(read.values()), done.bytes_resumed, notes, tuple(opened.kept))  # fmt: skip


def vocabulary_sizes(opened: OpenPlan) -> tuple[int, int]:
    """How many rows the base's weights have, and the result's."""
    assert opened.added
    name, more = next(iter(opened.added.more.items()))
    rows = rows_in(opened.base[name])
    return rows, rows + more


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Tells what the system refuses as an error of the output, from which the same fuse can go on."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the result cannot be written to {out} ({error}): make room or mend the disk; the same command goes on"
        ) from error


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


def _begin(opened: OpenPlan, begun: str) -> None:
    """Make the partial files, or find those of an earlier run of this very plan that was killed."""
    out = opened.plan.out
    if journal.finished(out, begun) and _reopen(opened):
        return
    remove_checkpoint(out)
    out.mkdir(parents=True, exist_ok=True)
    need = sum(s.size_bytes for specs in (opened.layout | opened.kept).values() for s in specs)
    if need > (free := shutil.disk_usage(out).free):
        raise WeightsError(f"the result has {need:,} bytes, and the disk of {out} has {free:,} left: make room")
    writer.prepare(out, opened.base, opened.layout)
    residual.prepare(out, opened.kept)
    journal.begin(out, begun)


def _reopen(opened: OpenPlan) -> bool:
    """Whether all partial files are there; their headers are written anew, as the journal speaks of tensors alone."""
    out = opened.plan.out
    return writer.reopen(out, opened.layout, opened.base.metadata) and residual.reopen(out, opened.kept)


def remove_checkpoint(folder: Path) -> None:
    """Take an earlier checkpoint, whole or half written, out of a folder; weights under other names stay."""
    journal.remove(folder)
    residual.remove(folder)
    for path in folder.glob("model*.safetensors*") if folder.is_dir() else ():
        if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?(\.partial)?", path.name):
            path.unlink()
