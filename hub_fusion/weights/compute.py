"""The only module that imports accelerate: which device, how many processes, and how they talk.

``accelerate launch -m hub_fusion …`` starts several processes of the same program. The main one runs the program;
the others `serve`: they wait for work that the main process hands out with `together` and do their share of it.
Whatever one of them says to the others (`gather`) may be that it has failed, and then all end with its error, wherever
they are. Not covered: splitting one model over devices (fusing never needs it).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hub_fusion.errors import HubFusionError

if TYPE_CHECKING:
    import numpy as np
    from accelerate import PartialState

    from hub_fusion.merge import BoundMethod
    from hub_fusion.weights.arithmetic import Arithmetic
    from hub_fusion.weights.plan import FusePlan

    Array = np.ndarray[Any, Any]

T = TypeVar("T")
FAULTS = (HubFusionError, OSError)  # told to the others; anything else is a mistake of ours, and ends the process


class Compute:
    """This process's place among its peers. Without ``accelerate launch`` there is one process."""

    def __init__(self) -> None:
        self.state: PartialState | None = None
        self.device, self.processes, self.rank = "cpu", 1, 0
        self.broken = False  # this process left its peers in the middle of their work
        self._told: BaseException | None = None  # the fault that all processes know of
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or _may_have_gpu():
            self._ask_accelerate()
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.processes))
        self.threads = max(_cores() // max(here, 1), 1)

    def _ask_accelerate(self) -> None:
        import torch
        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        cpu = (
            parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        )  # float64 is needed: CUDA or CPU
        # the peers wait for work as long as the main process talks to the Hub or evaluates
        self.state = PartialState(cpu=cpu, timeout=timedelta(days=7))
        self.device = "cpu" if cpu else str(self.state.device)
        self.processes = int(self.state.num_processes)
        self.rank = int(self.state.process_index)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that talks to people and to the Hub."""
        return self.rank == 0

    def arithmetic(self, formula: BoundMethod, plan: FusePlan) -> Arithmetic:
        """How a plan's blocks are computed on this process's device."""
        if self.device != "cpu":
            from hub_fusion.weights.cuda import TorchArithmetic

            return TorchArithmetic(formula, plan.step, plan.seed, self.device)
        from hub_fusion.weights.arithmetic import Arithmetic

        return Arithmetic(formula, plan.step, plan.seed)

    @contextmanager
    def one_thread_each(self, torch_too: bool = False) -> Iterator[None]:
        """Linear algebra on one thread in each of ours: faster than threads in threads, and the same bytes."""
        from threadpoolctl import threadpool_limits

        torch = importlib.import_module("torch") if torch_too else sys.modules.get("torch")
        before = torch.get_num_threads() if torch else 0
        if torch:
            torch.set_num_threads(1)
        try:
            with threadpool_limits(1, user_api="blas"):
                yield
        finally:
            if torch:
                torch.set_num_threads(before)

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in order of rank, in every process. Raises another process's fault in all of them."""
        return self._exchange(value, None)

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Ends in all processes at about the same time, or with the same error in all of them if one of them failed.

        Inside, `gather` may be called, by all processes alike; that is where the others hear of a fault.
        """
        try:
            yield
        except FAULTS as error:
            if error is self._told:
                raise
            self._exchange(None, error)
        else:
            self._exchange(None, None)

    def together(self, work: Callable[..., T], *arguments: Any, **here: Any) -> T:
        """Main process: run ``work(*arguments, compute)`` in all processes; gives this one's result.

        `work` and `arguments` are pickled between processes of this program, so `work` is a module-level function.
        `here` are further arguments for this process alone (a progress bar). A fault of any process is raised.
        """
        self._hand_out((work, arguments))
        try:
            with self.alike():
                return work(*arguments, self, **here)
        except FAULTS:
            raise  # in every process alike
        except BaseException:
            self.broken = True
            raise

    def serve(self) -> None:
        """Other processes: do what the main process hands out until it calls `close`.

        Faults are the main process's to tell.
        """
        while (job := self._hand_out(None)) is not None:
            work, arguments = job
            with suppress(*FAULTS), self.alike():
                work(*arguments, self)
        if self.state:
            self.state.destroy_process_group()

    def close(self) -> None:
        """Let the other processes go; after a fault of this one alone they wait in vain, and the launcher ends them."""
        if self.state and self.processes > 1 and not self.broken:
            self._hand_out(None)
            self.state.destroy_process_group()

    def _exchange(self, value: T, fault: BaseException | None) -> list[T]:
        """Tell the others a value or a fault and hear theirs; raises the first fault, the same one everywhere."""
        if self.processes == 1:
            told = [(value, fault)]
        else:
            from accelerate.utils import gather_object

            told = gather_object([(value, fault)])
        self._told = next((fault for _, fault in told if fault), None)
        if self._told:
            raise self._told
        return [value for value, _ in told]

    def _hand_out(self, job: Any) -> Any:
        if self.processes == 1:
            return job
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([job])[0]


def split_on_out_of_memory(work: Callable[[Array], T], rows: Array) -> Iterator[tuple[Array, T]]:
    """``rows, work(rows)``; where the device's memory does not suffice for all, the same of each half, and so on.

    With a single row the error is raised, as is every other error.
    """
    try:
        done = work(rows)
    except RuntimeError as error:
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        if len(rows) < 2 or not should_reduce_batch_size(error):
            raise
    else:
        yield rows, done
        return
    clear_device_cache(garbage_collection=True)
    half = len(rows) // 2
    yield from split_on_out_of_memory(work, rows[:half])
    yield from split_on_out_of_memory(work, rows[half:])


def _may_have_gpu() -> bool:
    """Whether there is a driver of a device that torch calls cuda (NVIDIA, also under WSL, and AMD)."""
    return any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
