"""The only module that imports accelerate: which device, how many processes, and how they talk.

``accelerate launch -m hub_fusion …`` starts several processes of the same program. The main one runs the program;
the others `serve`: they wait for work that the main process hands out with `together` and do their share of it.
Not covered: splitting one model over devices (fusing never needs it).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class Compute:
    """This process's place among its peers. Without ``accelerate launch`` there is one process."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # the peers wait for work as long as the main process talks to the Hub or evaluates
        self.state = PartialState(timeout=timedelta(days=7))
        self.device = str(self.state.device)
        self.processes = int(self.state.num_processes)
        self.rank = int(self.state.process_index)

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

    def together(self, work: Callable[..., T], *arguments: Any) -> T:
        """Main process: run ``work(*arguments, compute)`` in all processes; gives this one's result.

        `work` and `arguments` are pickled between processes of this program, so `work` is a module-level function.
        """
        self._hand_out((work, arguments))
        return work(*arguments, self)

    def serve(self) -> None:
        """Other processes: do what the main process hands out until it calls `close`."""
        while (job := self._hand_out(None)) is not None:
            work, arguments = job
            work(*arguments, self)

    def close(self) -> None:
        """Let the other processes go."""
        if self.processes > 1 and self.is_main:
            self._hand_out(None)
        self.state.destroy_process_group() if self.processes > 1 else None

    def _hand_out(self, job: Any) -> Any:
        if self.processes == 1:
            return job
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([job])[0]
