"""Calls of the client: tried again where that is right, and its errors in hub_fusion's words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hub_fusion.errors import HubConflict, HubError, HubFusionError, HubUnreachable, OutputError, RepoMissing

T = TypeVar("T")
RETRIES = 4
PATIENCE_S = 20.0  # no further try after so long: some of the client's calls have waited and tried again themselves
LIMITED_S = 600.0  # waited at most for rate limits to end, where the Hub says when: its windows have five minutes
SILENCE_S = 300.0  # after which a Hub that has taken a request and says nothing counts as unreachable


@dataclass(frozen=True)
class Calls:
    """Calls to one endpoint. `what` names the repository, revision and file that they are about."""

    endpoint: str

    def again(
        self, call: Callable[[], T], *what: str | None, may: Callable[[], bool] = lambda: True,
        patience_s: float = PATIENCE_S,
    ) -> T:  # fmt: skip
        """Call something; try again on 429, 5xx and broken connections, after a wait that grows or that the Hub names.

        What the Hub has refused by 429 has not happened; in all other cases `may` is asked whether to send it again.
        """
        began, limited_s = time.monotonic(), 0.0
        for attempt in range(RETRIES + 1):
            try:
                return self.once(call, *what)
            except HubUnreachable as error:
                if error.retry_after_s is None:
                    wait = 0.5 * 2**attempt * (1 + random.random() / 4)  # noqa: S311 (jitter)
                    hopeless = time.monotonic() - began > patience_s
                else:
                    wait = error.retry_after_s + random.random()  # noqa: S311 (jitter)
                    limited_s += wait
                    hopeless = limited_s > LIMITED_S
                if hopeless or _is_offline() or attempt == RETRIES or not (error.refused or may()):
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")

    def once(self, call: Callable[[], T], *what: str | None) -> T:
        """Call the client and translate its errors."""
        from huggingface_hub import errors
        from huggingface_hub.utils import httpx

        name = "/".join(part for part in what if part) or "the request"
        try:
            _end_silence()
            return call()
        except (errors.RemoteEntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError) as error:
            raise RepoMissing(f"{name} is not on {self.endpoint}, or this token may not see it") from error
        except errors.HfHubHTTPError as error:
            raise self._translate(error, name) from error
        except errors.LocalTokenNotFoundError:
            raise
        except (httpx.TransportError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
            raise HubUnreachable(f"{self.endpoint} does not answer ({name}): {error}") from error
        except errors.HFValidationError as error:
            raise HubError(f"{name} is not a valid name on the Hub: {error}") from error
        except OSError as error:
            raise self._storage(error, name) from error
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # a bug, and not what the client's storage library says of any trouble
                raise
            raise self._storage(error, name) from error
        except ValueError as error:  # a card that the Hub refuses before it is committed
            raise HubError(f"{self.endpoint} refuses {name}: {error}") from error

    def _storage(self, error: OSError | RuntimeError, name: str) -> HubFusionError:
        """What befell a transfer: on this machine, by a number of the system or in words; else on its way."""
        text = str(error)
        if getattr(error, "errno", None) is None and isinstance(error, FileNotFoundError):
            return RepoMissing(f"{name} is not in the storage of {self.endpoint}: {text}")
        if getattr(error, "errno", None) is None and isinstance(error, PermissionError):
            return HubError(f"the storage of {self.endpoint} refuses {name}: {text}")
        if isinstance(error, OSError) or "IO Error" in text:
            return OutputError(f"{name} cannot be written on this machine: {text}; make room there")
        return HubUnreachable(f"the storage of {self.endpoint} does not answer ({name}): {text}")

    def _translate(self, error: Any, name: str) -> HubError:
        response = error.response
        text = error.server_message or str(error).splitlines()[0]
        if response.status_code in (409, 412):
            return HubConflict(f"{name}: {text}")
        if response.status_code == 429 or response.status_code >= 500:
            after = _retry_after_s(response.status_code, response.headers)
            later = "" if after is None else f"; try again in {after:.0f} s"
            words = f"{self.endpoint} answers {response.status_code} ({name}): {text}{later}"
            return HubUnreachable(words, retry_after_s=after, refused=response.status_code == 429)
        return HubError(f"{self.endpoint} answers {response.status_code} ({name}): {text}")


def _is_offline() -> bool:
    """Whether the user has forbidden the client to connect (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _end_silence() -> None:
    """Give the client of this process, which would wait for ever, a limit, unless somebody has given it one."""
    from huggingface_hub.utils import get_session, httpx

    client = get_session()
    if client.timeout == httpx.Timeout(None):
        client.timeout = httpx.Timeout(SILENCE_S)


def _retry_after_s(status: int, headers: Mapping[str, str]) -> float | None:
    """In how many seconds the Hub will answer again: by ``RateLimit`` if that is why it did not, or ``Retry-After``."""
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers) if status == 429 else None
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    after = headers.get("retry-after", "").strip()
    return float(after) if after.isascii() and after.isdigit() else None
