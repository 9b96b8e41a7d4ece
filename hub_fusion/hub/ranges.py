"""Byte ranges of files, straight from where the Hub keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hub_fusion.errors import HubError, HubUnreachable
from hub_fusion.hub.calls import Calls


@dataclass(frozen=True)
class Ranges:
    """Ranges of the files of one endpoint; `headers` gives what the client sends, the token among it."""

    endpoint: str
    calls: Calls
    headers: Callable[[], dict[str, str]]
    _direct: dict[tuple[str, str, str], str] = field(default_factory=dict)  # file → where the Hub redirects to

    def fill(self, repo: str, path: str, revision: str, start: int, out: memoryview) -> int:
        """Fill `out` with the bytes of a file from `start` on; gives how many there were before it ended.

        A broken connection is taken up where it broke. The address that the Hub redirects to is kept for the next
        range, until it expires. Raises HubError if the server ignores ranges.
        """
        place, got = (repo, path, revision), 0

        def fetch() -> bool:
            nonlocal got
            if got == len(out):
                return True
            began, direct = got, place in self._direct
            try:
                for piece in self._range(place, start + got, start + len(out)):
                    used = min(len(piece), len(out) - got)
                    out[got : got + used] = piece[:used]
                    got += used
                    if used < len(piece):
                        break  # more than was asked for
            except Exception:
                self._direct.pop(place, None)
                if got == began and not direct:
                    raise
                return False  # it came further, or is asked for anew
            return True

        while not self.calls.again(fetch, repo, revision, path):
            pass
        return got

    def _range(self, place: tuple[str, str, str], start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, as they arrive."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import get_session, hf_raise_for_status

        repo, path, revision = place
        origin = hf_hub_url(repo, path, revision=revision, endpoint=self.endpoint)
        url = self._direct.get(place, origin)
        ours = self.headers() if url.startswith(f"{self.endpoint}/") else {}  # the token is the Hub's
        headers = ours | {"range": f"bytes={start}-{stop - 1}", "accept-encoding": "identity"}
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as answer:
            if answer.status_code != 206 and int(answer.headers.get("content-length", stop)) > stop:
                answer.read() if answer.status_code >= 400 else None
                hf_raise_for_status(answer)
                raise HubError(f"{self.endpoint} ignores byte ranges; cannot read {repo}/{path} in parts")
            if answer.status_code >= 400:
                answer.read()
                hf_raise_for_status(answer)
            if answer.status_code == 206:
                self._check_range(answer.headers.get("content-range", ""), start, stop, f"{repo}/{path}")
            if answer.history:
                self._direct[place] = str(answer.url)
            skip = 0 if answer.status_code == 206 else start
            for piece in answer.iter_raw():
                yield piece[skip:]
                skip = max(skip - len(piece), 0)

    def _check_range(self, told: str, start: int, stop: int, name: str) -> None:
        """Whether an answer holds the bytes that were asked for. Raises HubUnreachable, which is tried again."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", told.strip())
        first, last, size = (int(n) if n != "*" else stop for n in found.groups()) if found else (-1, -1, -1)
        if first != start or last + 1 not in (stop, size):
            asked = f"bytes {start}-{stop - 1} of {name} were asked for"
            raise HubUnreachable(f"{self.endpoint} answers with {told[:80] or 'no range'!r} where {asked}")
