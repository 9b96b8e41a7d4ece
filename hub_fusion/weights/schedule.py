"""Threads that work through the tensors in the order of the files, so that reading, arithmetic and writing overlap.

What a tensor needs beforehand (thresholds, inner products) is handed out a few tensors ahead of its first block; small
tensors are handed out in bundles. The order of execution changes nothing in the result.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from hub_fusion.weights.tensors import TensorWork

Task = Callable[[], None]
Bundle = tuple[tuple[TensorWork, int], ...]  # tensors and numbers of their blocks
BUNDLE_ELEMENTS = 2**16


class Stopped(Exception):
    """Another thread has failed."""


def run(
    works: Iterable[TensorWork], threads: int, prepare: Callable[[TensorWork], list[Task]],
    blocks: Callable[[Bundle], None], most: int = BUNDLE_ELEMENTS,
) -> None:  # fmt: skip
    """Call ``blocks(bundle)`` with every block of every tensor, after all of ``prepare(work)``.

    A bundle is full when it has `most` elements of all contributions together.

    Raises what a task raised first; the others stop after the task they are at.
    """
    stop = threading.Event()
    failures: list[BaseException] = []
    tasks, lock = _tasks(works, threads, prepare, blocks, most, stop), threading.Lock()

    def worker() -> None:
        while not stop.is_set():
            with lock:
                task = next(tasks, None)
            if task is None:
                return
            try:
                task()
            except Stopped:
                return
            except BaseException as error:
                failures.append(error)
                stop.set()

    helpers = [threading.Thread(target=worker, daemon=True) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    try:
        worker()
        for helper in helpers:
            helper.join()
    except BaseException:
        stop.set()
        raise
    finally:
        for helper in helpers:
            helper.join()
    if failures:
        raise failures[0]


def _tasks(
    works: Iterable[TensorWork], ahead: int, prepare: Callable[[TensorWork], list[Task]],
    blocks: Callable[[Bundle], None], most: int, stop: threading.Event,
) -> Iterator[Task]:  # fmt: skip
    waiting: deque[TensorWork] = deque()
    bundle: list[tuple[TensorWork, int]] = []
    elements = 0

    def merge(work: TensorWork) -> Iterator[Task]:
        nonlocal elements
        for number in work.todo:
            start, last = work.blocks[number]
            bundle.append((work, number))
            elements += (last - start) * work.columns * max(len(work.taking), 1)
            if elements >= most:
                yield partial(_carry_out, tuple(bundle), blocks, stop)
                bundle.clear()
                elements = 0

    for work in works:
        before = prepare(work)
        left = _Countdown(len(before), work.ready)
        for task in before:
            yield partial(left.after, task)
        waiting.append(work)
        if len(waiting) > (ahead if before else 0):
            yield from merge(waiting.popleft())
    while waiting:
        yield from merge(waiting.popleft())
    if bundle:
        yield partial(_carry_out, tuple(bundle), blocks, stop)


def _carry_out(bundle: Bundle, blocks: Callable[[Bundle], None], stop: threading.Event) -> None:
    for work, _ in bundle:
        while not work.ready.wait(0.1):
            if stop.is_set():
                raise Stopped
    blocks(bundle)


class _Countdown:
    """Sets an event when so many tasks are done."""

    def __init__(self, count: int, event: threading.Event) -> None:
        self.count, self.event, self.lock = count, event, threading.Lock()
        if not count:
            event.set()

    def after(self, task: Task) -> None:
        task()
        with self.lock:
            self.count -= 1
            if not self.count:
                self.event.set()
