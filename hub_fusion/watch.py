"""Wait for contributions; one generation at a time; stop cleanly.

The watcher keeps nothing but caches: it can be killed anywhere and started on another machine. An unreachable Hub is
waited for with growing pauses; any other error of a round is told and tried again at the next look, but for a mistake
in the recipe, which ends the watch. What it saw at its last look is kept in the work folder (listing.py), so that it
asks for little while nothing is new; a webhook (webhook.py) makes it look at once. After every look it answers those
who announce a contribution in a discussion (announcements.py).
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hub_fusion.announcements import Announcements
from hub_fusion.contributions.listing import Listing
from hub_fusion.deeds import Deeds, Direct
from hub_fusion.errors import HubFusionError, HubUnreachable, RecipeError
from hub_fusion.events import Event, Say
from hub_fusion.finish import Outcome
from hub_fusion.generation import run_generation
from hub_fusion.hub import Hub
from hub_fusion.recipe import Recipe
from hub_fusion.webhook import Receiver

if TYPE_CHECKING:
    from hub_fusion.weights.compute import Compute
    from hub_fusion.weights.fuse import Progress

MAX_PAUSE_S = 3600.0
KEPT = 100  # outcomes that a watcher remembers; it may run for years
LISTING = "listing.sqlite3"  # in the work folder


class Stopped(BaseException):
    """SIGTERM arrived; not an Exception, so that no handler on the way swallows it."""


def watch(
    recipe: Recipe, hub: Hub, compute: Compute, *, work: Path, interval: float, once: bool = False,
    say: Say = lambda _: None, tell: Callable[[Outcome], None] = lambda _: None,
    progress: Progress | None = None, receiver: Receiver | None = None, deeds: Deeds | None = None,
) -> list[Outcome]:  # fmt: skip
    """Look every `interval` seconds, fuse when it is due; gives the outcomes of its last rounds when it stops.

    `tell` gets an outcome when it is another than the one before; what a `receiver` is told by the Hub ends a pause.
    With `once` it goes on while generations are published and stops when there is nothing more to do; errors are then
    raised. SIGTERM stops it at once; a publication that this cuts in two is completed at the next start.
    """
    outcomes: deque[Outcome] = deque(maxlen=KEPT)
    deeds = deeds or Direct(recipe, hub, work, say)
    pause, stopping, listing = interval, threading.Event(), Listing(work / LISTING, say)
    news, announcements = receiver.news if receiver else threading.Event(), Announcements(recipe, hub, deeds, say)
    stop = _stop_on_sigterm(stopping)
    try:
        while not stopping.is_set():
            try:
                news.clear()  # what comes from now on may not be seen by this look
                outcome = run_generation(recipe, hub, compute, work=work, say=say, progress=progress, listing=listing,
                                         deeds=deeds)  # fmt: skip
                if not outcomes or _news(outcome) != _news(outcomes[-1]):
                    tell(outcome)
                outcomes.append(outcome)
                if recipe.announcements:
                    announcements.answer(outcome.queue, outcome.refusals)
                pause = 0.0 if outcome.status == "published" else interval
                if once and outcome.status != "published":
                    break
            except HubUnreachable as error:
                if once:
                    raise
                pause = max(min(max(pause, interval) * 2, MAX_PAUSE_S), interval, error.retry_after_s or 0.0)
                say(Event("unreachable", f"{error}; looking again in {pause:.0f} s", pause_s=pause))
            except (HubFusionError, OSError) as error:  # of this machine's disk, say
                if once or isinstance(error, RecipeError):
                    raise
                pause = interval
                say(Event("failed", f"this round failed: {error}; looking again in {pause:.0f} s", pause_s=pause))
                with suppress(HubFusionError):  # contributors look there, not into this log
                    deeds.tell_error(str(error))
            news.wait(pause)
    except Stopped:
        say(Event("stopped", "stopped by SIGTERM; nothing is lost, start again to go on"))
    finally:
        stop()
    return list(outcomes)


def _news(outcome: Outcome) -> tuple[object, ...]:
    """What of an outcome people want to hear, once: a look that finds what the last one found is none."""
    refused = {(r.repo, r.sha, r.code) for r in outcome.refusals}
    return outcome.status, outcome.reason, outcome.generation, {c.key for c in outcome.queue}, refused


def _stop_on_sigterm(stopping: threading.Event) -> Callable[[], None]:
    """Turn SIGTERM into Stopped; gives the function that restores the old behaviour."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # signals belong to the main thread; an embedding program stops us its own way

    def handle(number: int, frame: object) -> None:
        stopping.set()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is stopping: a second one must not tear that
        raise Stopped

    old = signal.signal(signal.SIGTERM, handle)

    def restore() -> None:
        signal.signal(signal.SIGTERM, old)

    return restore
