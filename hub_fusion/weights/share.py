"""One process's share of a fuse: which tensors it has, and every block of them read, merged and put in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from hub_fusion.weights import journal, residual, writer
from hub_fusion.weights.added_rows import AddedRows, fuse_added
from hub_fusion.weights.arithmetic import Arithmetic, Fused
from hub_fusion.weights.checkpoint import TensorSpec
from hub_fusion.weights.plan import OpenPlan
from hub_fusion.weights.schedule import Bundle, run
from hub_fusion.weights.stream import read_ahead
from hub_fusion.weights.tensors import TensorWork

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute

Progress = Callable[[int, int], None]  # bytes written so far by this process, and of its share


class Done(NamedTuple):
    """What came of a share."""

    bytes_resumed: int  # that were there
    hashes: dict[str, str]  # of the output's files, if this process was alone
    unchecked: list[str]  # files of the Hub that were read in part, so that their sha256 could not be compared


def write_all(
    opened: OpenPlan, begun: str, works: list[TensorWork], arithmetic: Arithmetic, compute: Compute,
    progress: Progress | None,
) -> Done:  # fmt: skip
    """Write every block of this process's share that an earlier run has not written."""
    out, done = opened.plan.out, journal.finished(opened.plan.out, begun)
    output = writer.Output(out)
    keeping = {spec.name: spec for specs in opened.kept.values() for spec in specs}
    hashing = writer.RunningHashes(out, opened.layout) if compute.processes == 1 else None
    total, written, resumed = sum(work.size * work.item_bytes for work in works), 0, 0

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
                for work, number in bundle:
                    if isinstance(work, AddedRows):
                        yield work, number, fuse_added(work, *work.blocks[number])
                bundle = tuple(pair for pair in bundle if not pair[0].added)
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
            with read_ahead(left, opened.base, opened.residual) as unchecked:
                run(left, threads, arithmetic.preparations, blocks, arithmetic.bundle)
        return Done(resumed, hashing.finish() if hashing else {}, unchecked)
    except BaseException:
        if hashing:
            hashing.stop()
        raise
    finally:
        output.close()


def shares(specs: list[TensorSpec], processes: int) -> list[list[TensorSpec]]:
    """Tensors split over processes: the largest first, each to whoever has the fewest bytes so far."""
    shares: list[list[TensorSpec]] = [[] for _ in range(processes)]
    load = [0] * processes
    for spec in sorted(specs, key=lambda s: (-s.size_bytes, s.name)):
        lightest = load.index(min(load))
        shares[lightest].append(spec)
        load[lightest] += spec.size_bytes + 4096  # a tensor costs something however small it is
    return shares
