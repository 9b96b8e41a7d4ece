"""The keeper's side: one deed after the other, each checked before it is carried out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from hub_fusion.deeds import Direct
from hub_fusion.errors import DeedRefused, HubFusionError
from hub_fusion.events import Event
from hub_fusion.keeper import rules, wire
from hub_fusion.publish.candidate import check_candidate
from hub_fusion.publish.state import BaseState, open_base


class Keeper:
    """Carries out what a worker asks for, with `deeds`, whose Hub holds the token."""

    def __init__(self, deeds: Direct) -> None:
        self.deeds, self.recipe, self.hub = deeds, deeds.recipe, deeds.hub

    def serve(self, lines: BinaryIO, send: Callable[[bytes], object]) -> None:
        """Until the worker has no more to say; a line that cannot be understood is the last."""
        while line := lines.readline(wire.MOST_BYTES + 1):
            number = 0
            try:
                number, ask = wire.parse(line)
                answer = {"number": number, "value": self._do(ask)}
            except wire.FAULTS as error:
                answer = {"number": number, "error": wire.error_to_json(error)}
                if isinstance(error, DeedRefused):
                    self.deeds.say(Event("refused", f"the keeper refuses: {error}"))
            send(wire.to_line(answer))
            if not line.endswith(b"\n"):
                return

    def _do(self, ask: wire.AnyAsk) -> Any:
        """Check, do, and give what the worker is told."""
        deeds = self.deeds
        match ask:
            case wire.Account():
                return deeds.account()
            case wire.Mend():
                return deeds.mend(self._state())
            case wire.KeepStable():
                return deeds.keep_stable(self._state())
            case wire.Proposal():
                found = deeds.proposal(self._state(), dry_run=ask.dry_run) if self._proposes() else None
                return found and found.model_dump(mode="json")
            case wire.TellQueue():
                return deeds.tell_queue(ask.generation, ask.queue, ask.refusals, ask.headroom, ask.aside, ask.later)
            case wire.TellHeadroom():
                return deeds.tell_headroom(ask.headroom)
            case wire.TellError():
                return deeds.tell_error(ask.text)
            case wire.TellRejected():
                rules.check_rejected(self.recipe, ask.record)
                return deeds.tell_rejected(ask.record, ask.headroom)
            case wire.OpenArchive():
                if self.recipe.archive.keep == "none":
                    raise DeedRefused("an archive, which the recipe does not ask for")
                name, wanted = deeds.open_archive(self._state(), ask.fused)
                return {"name": name, "wanted": [credit.model_dump(mode="json") for credit in wanted]}
            case wire.KeepCopy():
                return self._keep_copy(ask)
            case wire.Publish():
                return self._publish(ask)
            case wire.GiveAnswer():
                rules.check_discussion(self.hub, self.recipe, ask.number)
                return deeds.answer(ask.number, ask.answer)

    def _state(self) -> BaseState:
        return open_base(self.hub, self.recipe.base, self.recipe.root, mend=False)

    def _proposes(self) -> bool:
        return self.recipe.publish.mode == "pull-request"

    def _keep_copy(self, ask: wire.KeepCopy) -> None:
        try:
            self.deeds.keep_copy(ask.key, ask.names)
        except HubFusionError as error:
            raise rules.refused("a copy", error) from None

    def _publish(self, ask: wire.Publish) -> str:
        state = rules.state_at(self.hub, self.recipe, ask.head)
        rules.check_generation(self.recipe, state, ask.record)
        try:
            check_candidate(self.hub, self.recipe, state, ask.record, self.deeds.work / "candidate")
        except HubFusionError as error:
            raise rules.refused("the candidate", error) from None
        return self.deeds.publish(state, ask.record)
