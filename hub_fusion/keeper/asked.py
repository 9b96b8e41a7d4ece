"""The worker's side: the deeds of a round, asked of the keeper.

When the keeper is gone, however it ended, this process ends at once: nobody would carry out what it works for, and it
must not hold the work folder.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hub_fusion.errors import DeedRefused
from hub_fusion.keeper import wire
from hub_fusion.publish.answers import Answer
from hub_fusion.publish.state import BaseState
from hub_fusion.records import (
    Aside,
    Attempt,
    Contribution,
    Credit,
    Generation,
    Headroom,
    Later,
    Proposed,
    Refusal,
    Waiting,
)


class Asked:
    """`Deeds` at the other end of a socket; errors of the keeper are raised here as what they are."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._answers, self._number = connection, queue.SimpleQueue[dict[str, Any]](), 0
        threading.Thread(target=self._listen, daemon=True).start()

    @classmethod
    def inherited(cls, descriptor: int) -> Asked:
        """By the number of a socket that this process was started with."""
        os.set_inheritable(descriptor, False)
        end_once()
        return cls(socket.socket(fileno=descriptor))

    def _listen(self) -> None:
        with suppress(OSError), self._connection.makefile("rb") as lines:
            for line in lines:
                self._answers.put(json.loads(line))
        os._exit(1)

    def _ask(self, ask: wire.AnyAsk) -> Any:
        self._number += 1
        line = wire.to_line({"number": self._number, "ask": ask.model_dump(mode="json")})
        if len(line) > wire.MOST_BYTES:
            raise DeedRefused(f"{ask.deed} takes {len(line)} bytes to ask for, more than {wire.MOST_BYTES}")
        self._connection.sendall(line)
        while (answer := self._answers.get())["number"] not in (self._number, 0):
            pass  # one that nobody waits for any more: an interrupt came in between
        if "error" in answer:
            raise wire.error_from_json(answer["error"])
        return answer["value"]

    def account(self) -> str | None:
        found: str | None = self._ask(wire.Account())
        return found

    def mend(self, state: BaseState) -> None:
        self._ask(wire.Mend())

    def keep_stable(self, state: BaseState) -> None:
        self._ask(wire.KeepStable())

    def proposal(self, state: BaseState, *, dry_run: bool) -> Proposed | None:
        found = self._ask(wire.Proposal(dry_run=dry_run))
        return found and Proposed.model_validate(found)

    def tell_queue(
        self, generation: int, queue: Sequence[Waiting], refusals: Sequence[Refusal], headroom: Headroom,
        aside: Aside | None = None, later: Sequence[Later] | None = None,
    ) -> None:  # fmt: skip
        self._ask(wire.TellQueue(generation=generation, queue=tuple(queue), refusals=tuple(refusals),
                                 headroom=headroom, aside=aside,
                                 later=None if later is None else tuple(later)))  # fmt: skip

    def tell_headroom(self, headroom: Headroom) -> None:
        self._ask(wire.TellHeadroom(headroom=headroom))

    def tell_error(self, text: str) -> None:
        self._ask(wire.TellError(text=text[: wire.MOST_TEXT]))

    def tell_rejected(self, record: Attempt, headroom: Headroom | None) -> None:
        self._ask(wire.TellRejected(record=record, headroom=headroom))

    def open_archive(self, state: BaseState, fused: Sequence[Contribution]) -> tuple[str, tuple[Credit, ...]]:
        found = self._ask(wire.OpenArchive(fused=tuple(fused)))
        return found["name"], tuple(Credit.model_validate(credit) for credit in found["wanted"])

    def keep_copy(self, key: str, names: Sequence[str]) -> None:
        self._ask(wire.KeepCopy(key=key, names=tuple(names)))

    def publish(self, state: BaseState, record: Generation, beside: Mapping[str, str] | None = None) -> str:
        if beside:
            raise DeedRefused("a keeper publishes what a round makes, and nothing beside it")
        return str(self._ask(wire.Publish(head=state.head, record=record)))

    def answer(self, number: int, answer: Answer) -> bool:
        return bool(self._ask(wire.GiveAnswer(number=number, answer=answer)))


def end_once() -> None:
    """Ctrl-C ends this process by its first signal; from a terminal it may get one more, passed on by the keeper."""

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
