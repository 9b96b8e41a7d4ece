"""The life of a keeper: start a worker, serve it, pass signals on, and end as it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hub_fusion.deeds import Direct
from hub_fusion.errors import HubUnreachable, RecipeError, RepoMissing, WorkerLost
from hub_fusion.events import Say
from hub_fusion.hub import Hub
from hub_fusion.hub.logins import stored_logins
from hub_fusion.keeper.serving import Keeper
from hub_fusion.keeper.tokens import READ_TOKEN, SOCKET, command, without_tokens
from hub_fusion.recipe import Recipe

GRACE_S = 25.0  # for a worker that was told to end
PATIENCE_S = 5.0  # when its socket has ended
ENDINGS = (signal.SIGINT, signal.SIGTERM)


class Ended(BaseException):
    """A signal to end arrived, and was passed on; not an Exception, so that no handler on the way swallows it."""


def keep(recipe: Recipe, hub: Hub, work: Path, arguments: Sequence[str], say: Say) -> int:
    """Start ``hub-fusion ARGUMENTS`` as a worker and serve it to its end; gives its exit code. `hide` before.

    A signal that ended both ends this process too. Raises WorkerLost for a worker that something else killed,
    RepoMissing for a base that it could not see.
    """
    if logins := stored_logins():
        say(f"a login is stored in {logins[0]}, which contributions that take over the worker could read: "
            "give the token in HF_TOKEN instead, and log out (hf auth logout)")  # fmt: skip
    _check_reader(hub, recipe)
    ours, theirs = socket.socketpair()
    environment, told = without_tokens(os.environ, hub.saved_token()) | {SOCKET: str(theirs.fileno())}, list[int]()
    worker = subprocess.Popen(command(arguments), env=environment, pass_fds=[theirs.fileno()])
    theirs.close()
    threading.Thread(target=_close_after, args=(worker, ours), daemon=True).start()
    try:
        with suppress(Ended, ConnectionError), _passing_on(worker, told), ours.makefile("rb") as lines:
            Keeper(Direct(recipe, hub.uncached(), work, say)).serve(lines, ours.sendall)
    finally:
        code = _end(worker, ours, GRACE_S if told else 0)
    if code >= 0:
        return code
    if -code in told:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    raise WorkerLost(f"the worker was killed by {signal.Signals(-code).name}; nothing is lost, start again to go on")


def _check_reader(hub: Hub, recipe: Recipe) -> None:
    """Whether the worker's token, if it gets one, is for reading; and whether it will see the base."""
    given = os.environ.get(READ_TOKEN, "").strip()
    try:
        if given and Hub(hub.endpoint, given).may_write():
            raise RecipeError(f"the token in {READ_TOKEN} may write: make one that may only read")
        found = hub.model(recipe.base)
    except (HubUnreachable, RepoMissing):
        return  # for the worker to tell, or to wait for
    if (found.private or found.gated) and not given:
        raise RepoMissing(
            f"{recipe.base} is private or gated, and the process that reads contributions does not get the token "
            f"that may write: set {READ_TOKEN} to one that may read the base, and nothing else"
        )


@contextmanager
def _passing_on(worker: subprocess.Popen[bytes], told: list[int]) -> Iterator[None]:
    """Signals to end go to the worker too, once; then Ended is raised here."""

    def handle(number: int, frame: object) -> None:
        for other in ENDINGS:
            signal.signal(other, signal.SIG_IGN)  # it is ending: another one must not tear that
        told.append(number)
        worker.send_signal(number)
        raise Ended

    heard = [number for number in ENDINGS if signal.getsignal(number) is not signal.SIG_IGN]  # not behind nohup's like
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        if not told:
            for number, handler in before.items():
                signal.signal(number, handler)


def _close_after(worker: subprocess.Popen[bytes], connection: socket.socket) -> None:
    """When the worker has ended nothing more comes, even where a process that it left behind holds its socket."""
    worker.wait()
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _end(worker: subprocess.Popen[bytes], connection: socket.socket, grace_s: float) -> int:
    """The exit code of a worker that ends by itself, or is made to: by the end of its socket, then by force."""
    with suppress(subprocess.TimeoutExpired):
        return worker.wait(grace_s)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    try:
        return worker.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        return worker.wait()
