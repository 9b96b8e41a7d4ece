"""How many requests a caller may send in a while, and the headers that tell: off unless asked for.

As on the Hub there are three buckets (https://huggingface.co/docs/hub/rate-limits): "resolvers" for paths with
``/resolve/``, "api" for ``/api/`` and git-lfs, "pages" for the rest; each is a fixed window that begins with a caller's
first request. A caller is a valid token, else an address. What the Hub leaves to other hosts (stored bytes, Xet's) is
not counted. Like the Hub's, a refusal has no ``Retry-After``: clients read ``RateLimit``.

Not covered: the Hub's limits on single routes (whoami, creating repositories, commits), whose numbers are not public.
"""

import math
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from hub_fusion.local_hub.errors import HubError

MAX_CALLERS = 50_000  # remembered per bucket; the oldest window makes room, and its caller begins a new one
RATE = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,5})")
ELSEWHERE = ("/lfs-storage/", "/lfs-parts/", "/cas/")


class Standing(NamedTuple):
    """Where a caller stands in a bucket after a request: `remaining` of `quota`, anew in `reset_s` seconds."""

    bucket: str
    quota: int
    window_s: int
    remaining: int
    reset_s: int
    allowed: bool = True

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit`` and ``RateLimit-Policy`` as the Hub spells them."""
        policy = f'"fixed window";"{self.bucket}";q={self.quota};w={self.window_s}'
        now = f'"{self.bucket}";r={self.remaining};t={self.reset_s}'
        return [(b"ratelimit", now.encode()), (b"ratelimit-policy", policy.encode())]

    @property
    def refusal(self) -> HubError:
        """What the caller is told who has no request left."""
        return HubError(
            429,
            f"You have sent {self.quota} {self.bucket} requests, all that are allowed in {self.window_s} s. "
            f"Wait {self.reset_s} s.",
        )


UNLIMITED = {
    "api": Standing("api", 1000, 300, 999, 120),
    "resolvers": Standing("resolvers", 5000, 300, 4999, 120),
    "pages": Standing("pages", 200, 300, 199, 120),
}  # what is told when nothing is counted


class Limits:
    """The quotas in force and who has used how much of them. Used in the event loop; `set` works from any thread."""

    def __init__(self, rates: Mapping[str, str] | None = None) -> None:
        self.set(rates or {})

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def set(self, rates: Mapping[str, str]) -> None:
        """Put other quotas in force, counted from now: ``{"api": "1000/300"}`` is 1000 in 300 s; {} is none."""
        self._buckets = {bucket: _Bucket(bucket, *_parse(bucket, rate)) for bucket, rate in rates.items()}

    def take(self, bucket: str, caller: str) -> Standing:
        """Count a request, unless there is none left."""
        counting = self._buckets.get(bucket)
        return counting.take(caller, time.monotonic()) if counting else UNLIMITED[bucket]


class _Bucket:
    def __init__(self, name: str, quota: int, window_s: int) -> None:
        self._name, self._quota, self._window_s = name, quota, window_s
        self._used: dict[str, tuple[float, int]] = {}  # caller → (end of its window, requests), oldest window first

    def take(self, caller: str, now: float) -> Standing:
        end, used = self._used.get(caller, (0.0, 0))
        if end <= now:
            self._used.pop(caller, None)
            self._make_room(now)
            end, used = now + self._window_s, 0
        allowed = used < self._quota
        if allowed:
            used += 1
            self._used[caller] = end, used
        reset_s = min(math.ceil(end - now), self._window_s)  # not more than it, by a rounding error
        return Standing(self._name, self._quota, self._window_s, self._quota - used, reset_s, allowed)

    def _make_room(self, now: float) -> None:
        while self._used:
            oldest = next(iter(self._used))
            if self._used[oldest][0] > now and len(self._used) < MAX_CALLERS:
                return
            del self._used[oldest]


def bucket_of(path: str) -> str | None:
    """The bucket that a raw path counts in; None for what the Hub leaves to other hosts."""
    if "/resolve/" in path:
        return "resolvers"
    if path.startswith("/api/") or ".git/info/lfs/" in path:
        return "api"
    return None if path.startswith(ELSEWHERE) else "pages"


def _parse(bucket: str, rate: str) -> tuple[int, int]:
    if bucket not in UNLIMITED:
        raise ValueError(f"There is no bucket {bucket!r}; limits are for {', '.join(UNLIMITED)}.")
    found = RATE.fullmatch(rate)
    if not found:
        raise ValueError(f"The limit of {bucket} must be REQUESTS/SECONDS, both positive, like 1000/300; not {rate!r}.")
    return int(found[1]), int(found[2])
