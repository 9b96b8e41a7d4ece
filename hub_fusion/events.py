"""What a round says while it works: sentences for people that machines can read too.

Everything here takes ``say``, a function of a string. An `Event` is such a string, with a name and values beside its
words, so that whoever prints lines need not know, and whoever writes JSON has something to count and to wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[[str], None]


class Event(str):
    """A sentence with a name and values: ``Event("fuse", "fusing 5 contributions", contributions=5)``.

    The names are the stages of a round (``look``, ``screen``, ``fuse``, ``evaluate``, ``commit``, ``tag``), what it
    came to (``published``, ``rejected``, ``waiting``, ``known``, ``planned``), and what befalls a watcher
    (``unreachable``, ``failed``, ``webhook``, ``stopped``, ``refused``); ``note`` is whatever else is said. Values can
    be written as JSON.
    """

    __slots__ = ("facts", "name")

    name: str
    facts: dict[str, Any]

    def __new__(cls, name: str, text: str, **facts: Any) -> Event:
        """The sentence `text`, with `name` and `facts` on it."""
        event = super().__new__(cls, text)
        event.name, event.facts = name, facts
        return event


def named(say: Say, name: str) -> Say:
    """`say`, with a name on every sentence that has none."""
    return lambda text: say(text if isinstance(text, Event) else Event(name, text))
