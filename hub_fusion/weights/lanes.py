"""Ways to a device: each thread has a stream and a few pinned buffers through which stored bytes go there and back.

While one buffer is on its way the next one is filled, and while one thread waits for its stream the others read,
compute and write. On the CPU, where tests run it, the same code copies plainly. Imported only where torch is in use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import torch

from hub_fusion.errors import WeightsError
from hub_fusion.weights.checkpoint import ITEM_BYTES, TORCH_NAMES, Checkpoint
from hub_fusion.weights.codec import STORED

T = TypeVar("T")
Part = tuple[str, int, int]  # tensor, first and one more than the last of its flat elements
SLOT_BYTES, SLOTS = 2**24, 3
LARGEST_BACK = 2**26  # bytes; larger results are not worth pinned memory


class Lane:
    """One thread's stream and pinned buffers. Use it inside of ``with lane.on():``."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.pinned = device, device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.pinned else None
        with self.on():
            self.slots = [self._host(SLOT_BYTES) for _ in range(SLOTS)]
            self.back = self._host(0)
        self.sent = [torch.cuda.Event(blocking=True) for _ in range(SLOTS)] if self.pinned else []
        self.turn = 0

    def on(self) -> AbstractContextManager[object]:
        """Device and stream of this thread, until the end of the block."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def load(self, checkpoint: Checkpoint, parts: Sequence[Part], dtype: str) -> torch.Tensor:
        """Elements of tensors as they are stored, one part after another, flat; they may still be on their way."""
        item = ITEM_BYTES[dtype]
        there = torch.empty(sum(last - first for _, first, last in parts) * item, dtype=torch.uint8, device=self.device)
        slot, used, sent = self._slot(), 0, 0
        for name, first, last in parts:
            while first < last:
                if used + item > SLOT_BYTES:
                    sent, slot, used = self._send(slot, used, there, sent), self._slot(), 0
                count = min(last - first, (SLOT_BYTES - used) // item)
                into: np.ndarray = slot[used : used + count * item].numpy().view(STORED[dtype])
                checkpoint.raw(name, first, first + count, into)
                first, used = first + count, used + count * item
        self._send(slot, used, there, sent)
        return there.view(getattr(torch, TORCH_NAMES[dtype]))

    def fetch(self, values: torch.Tensor) -> np.ndarray:
        """The bytes of a flat tensor of the device, here; overwritten by the next call."""
        raw = values.view(torch.uint8)
        if self.stream is None or raw.numel() > LARGEST_BACK:
            return raw.cpu().numpy()
        if self.back.numel() < raw.numel():
            self.back = self._host(raw.numel())
        back = self.back[: raw.numel()]
        back.copy_(raw, non_blocking=True)
        self.wait()
        return back.numpy()

    def wait(self) -> None:
        """Until everything that this thread has begun on the device is done."""
        if self.stream is not None:
            done = torch.cuda.Event(blocking=True)
            done.record(self.stream)
            done.synchronize()

    def _host(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned and size > 0)

    def _slot(self) -> torch.Tensor:
        """The next buffer, as soon as what it held has arrived."""
        self.turn = (self.turn + 1) % SLOTS
        if self.sent:
            self.sent[self.turn].synchronize()
        return self.slots[self.turn]

    def _send(self, slot: torch.Tensor, used: int, there: torch.Tensor, at: int) -> int:
        there[at : at + used].copy_(slot[:used], non_blocking=True)
        if self.sent:
            self.sent[self.turn].record(self.stream)
        return at + used


class Room:
    """The device's memory: as many threads at once as fit, one fewer after each time that it ran out.

    Blocks are never made smaller, since the bytes of a result could depend on that.
    """

    def __init__(self, most: int) -> None:
        self.most, self._inside, self._changed = most, 0, threading.Condition()

    def carry_out(self, task: Callable[[], T]) -> T:
        """``task()``, again if memory ran out. Raises WeightsError if it does even when nobody else is there."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._inside < self.most)
                self._inside += 1
                alone = self.most == 1
            try:
                return task()
            except torch.OutOfMemoryError as error:
                told = str(error).split(". ")[0]
            finally:
                with self._changed:
                    self._inside -= 1
                    self._changed.notify_all()
            if alone:
                raise WeightsError(
                    f"not even one block fits into the memory of the device ({told}): take fewer contributions or a "
                    "method that needs no whole tensors (hub-fusion methods), or set ACCELERATE_USE_CPU=true"
                )
            with self._changed:
                self.most = max(min(self.most, self._inside + 1) - 1, 1)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
