"""Who must be named, in every generation's commit: ``fusion/NOTICE``, and the notices that came with what was fused.

A generation is made from all that went into it and into those before it, and licences ask for different things: that a
copyright line stays (MIT, BSD), that a NOTICE is passed on and changes are told (Apache-2.0), that authors are named
(CC-BY). So all are named, whatever their licence: author, repository, commit, licence and generation. The texts that
lie beside the weights at that commit (NOTICE, LICENSE, COPYING, COPYRIGHT) are kept under ``fusion/notices``, by the
generation that fused them, and stay there; those of the root too. What the base's own repository holds stays as it is.
Texts are strangers': only UTF-8 of at most 50 kB is kept, without what cannot be seen, in files that nothing renders;
and only of public repositories, or a record could name a private one, whose text the maintainer's token would publish.
Not covered: whether a text is true, notices elsewhere than at the top of a repository, in cards, or of data sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hub_fusion.errors import HubError, HubUnreachable
from hub_fusion.events import Say
from hub_fusion.publish.front_matter import sane_root
from hub_fusion.publish.markdown import COMMIT, REPO, is_visible, plain
from hub_fusion.publish.state import BaseState, fused_credits
from hub_fusion.records import Credit, Generation

if TYPE_CHECKING:
    from hub_fusion.hub import FileInfo, Hub

NOTICE, KEPT = "fusion/NOTICE", "fusion/notices"
FILE = re.compile(r"(NOTICE|LICEN[CS]E|COPYING|COPYRIGHT)(\.txt|\.md)?", re.ASCII | re.IGNORECASE)
NAMES_NOBODY = ("apache-2.0", "cc0-1.0")  # texts without a copyright line; a NOTICE beside them has it
FILE_BYTES, GENERATION_BYTES, LIST_BYTES = 50_000, 1_000_000, 1_000_000


def notice_files(
    hub: Hub, state: BaseState, record: Generation, there: Mapping[str, FileInfo], say: Say = lambda _: None
) -> dict[str, str]:
    """Path in the base's repository → text, for the commit of this generation; `there` are the files before it.

    What cannot be read is said and left out, since the contribution itself is named anyway. Raises HubUnreachable.
    """
    credits = [*fused_credits(hub, state), *((record.generation, c) for c in record.contributions)]
    found = {NOTICE: render_notice(record.base, sane_root(record), credits, hub.endpoint)}
    room = GENERATION_BYTES
    for repo, sha, license in _sources(record):
        for path, text in _texts(hub, repo, sha, license, there, say).items():
            size = len(text.encode())
            if size > room:
                say(f"{path} is not kept: the notices of one generation have at most {GENERATION_BYTES} bytes")
                continue
            found[path], room = text, room - size
    return found


def render_notice(base: str, root: str | None, credits: Iterable[tuple[int, Credit]], endpoint: str) -> str:
    """``fusion/NOTICE``: plain text, a line for each contribution, oldest first; of too many the newest."""
    endpoint = endpoint.rstrip("/")
    head = [plain(base, 200), ""]
    head += [f"Made from {plain(root, 200)}, {endpoint}/{plain(root, 200)}"] if root else []
    head += [
        "and from the works below, whose weights were changed by fusing them. Each is under the licence that its card",
        f"named at that commit; texts that came with them are in {KEPT}, those of this repository at its top.", "",
    ]  # fmt: skip
    lines = [_line(number, credit, endpoint) for number, credit in credits]
    size, kept = len("\n".join(head).encode()) + 200, len(lines)
    while kept and size < LIST_BYTES:
        size += len(lines[kept - 1].encode()) + 1
        kept -= size < LIST_BYTES
    left = [f"{kept} older ones are named in the records, fusion/gen-N.json."] if kept else []
    return "\n".join([*head, *left, *lines[kept:]]) + "\n"


def _line(number: int, credit: Credit, endpoint: str) -> str:
    address = f"{endpoint}/{credit.repo}/tree/{credit.sha}" if REPO.fullmatch(credit.repo) else "no address"
    license = plain(credit.license or "no licence named", 80)
    return f"gen-{number}: {plain(credit.repo, 200)} by {plain(credit.author, 100)}, {license}, {address}"


def _sources(record: Generation) -> list[tuple[str, str | None, str | None]]:
    """(repository, commit, licence) of the root, at whatever commit it is seen first, and of what was fused."""
    root = sane_root(record)
    return [*([(root, None, None)] if root else []), *((c.repo, c.sha, c.license) for c in record.contributions)]


def _texts(
    hub: Hub, repo: str, sha: str | None, license: str | None, there: Mapping[str, FileInfo], say: Say
) -> dict[str, str]:
    """Where they are kept → the notices of one repository that are not there already."""
    if not REPO.fullmatch(repo) or (sha is not None and not COMMIT.fullmatch(sha)):
        return {}
    place = f"{KEPT}/{repo.replace('/', '--')}-{sha[:12] if sha else 'root'}-"
    if sha is None and any(path.startswith(place) for path in there):
        return {}
    found: dict[str, str] = {}
    try:
        at = sha or hub.resolve(repo)
        for path, file in sorted(hub.files(repo, at).items()):
            if not FILE.fullmatch(path) or place + path.replace(".", "-") in there:
                continue
            if license in NAMES_NOBODY and not path.upper().startswith(("NOTICE", "COPYRIGHT")):
                continue
            if file.size > FILE_BYTES:
                say(f"{repo}/{path} is not kept: it has {file.size} bytes, a notice at most {FILE_BYTES}")
                continue
            if not found and ((info := hub.model(repo)).private or info.gated):
                say(f"notices of {repo} are not kept: it is private or gated, and the base's readers would see them")
                break
            text = hub.read_text(repo, path, revision=at, max_bytes=FILE_BYTES)
            if "\0" in text or "\ufffd" in text:
                say(f"{repo}/{path} is not kept: it is not UTF-8 text")
                continue
            source = f"{hub.endpoint}/{repo}/blob/{at}/{path}"
            found[place + path.replace(".", "-")] = f"From {source}\n\n{_clean(text)}"
    except HubUnreachable:
        raise
    except HubError as error:
        say(f"notices of {repo} are not kept: {error}")
    return found


def _clean(text: str) -> str:
    """The text in lines, without what cannot be seen or turns the direction of writing."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join("".join(filter(is_visible, line)).rstrip() for line in lines).rstrip() + "\n"
