"""The only module that imports accelerate: which device, how many processes, and how they talk.

``accelerate launch -m hub_fusion …`` starts several processes of the same program. The main one runs the program;
the others `serve`: they wait for work that the main process hands out with `together` and do their share of it.
Not covered: splitting one model over devices (fusing never needs it).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from hub_fusion.errors import HubFusionError

T = TypeVar("T")


class Compute:
    """This process's place among its peers. Without ``accelerate launch`` there is one process."""

    def __init__(self) -> None:
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
        self.broken = False  # this process left its peers in the middle of their work

    @property
    def is_main(self) -> bool:
        """Whether this is the process that talks to people and to the Hub."""
        return bool(self.state.is_main_process)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.state.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        """Everybody's value, in order of rank, in every process."""
        from accelerate.utils import gather_object

        return list(gather_object([value])) if self.processes > 1 else [value]

    def together(self, work: Callable[..., T], *arguments: Any, **here: Any) -> T:
        """Main process: run ``work(*arguments, compute)`` in all processes; gives this one's result.

        `work` and `arguments` are pickled between processes of this program, so `work` is a module-level function.
        `here` are further arguments for this process alone (a progress bar).
        """
        self._hand_out((work, arguments))
        try:
            return work(*arguments, self, **here)
        except HubFusionError:
            raise  # in every process alike
        except BaseException:
            self.broken = True
            raise

    def serve(self) -> None:
        """Other processes: do what the main process hands out until it calls `close`.

        A HubFusionError is raised from the same inputs in every process, and told by the main one.
        """
        while (job := self._hand_out(None)) is not None:
            work, arguments = job
            with suppress(HubFusionError):
                work(*arguments, self)
        self.state.destroy_process_group()

    def close(self) -> None:
        """Let the other processes go; after a fault of this one alone they wait in vain, and the launcher ends them."""
        if self.processes > 1 and not self.broken:
            self._hand_out(None)
            self.state.destroy_process_group()

    def _hand_out(self, job: Any) -> Any:
        if self.processes == 1:
            return job
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([job])[0]
