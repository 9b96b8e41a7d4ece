"""Settings of a repository: who sees it, who may read it, whether it is discussed; and what the caller may do."""

from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import events
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.errors import HubError

VISIBILITIES = {"public": 0, "private": 1, "protected": 2}  # of a protected Space the app is public: none runs here


def visibility(request: dict[str, Any], kind: str) -> int | None:
    """What a request asks for, as the column holds it, None if nothing; 400."""
    private, wanted = request.get("private"), request.get("visibility")
    if not isinstance(private, bool | None):
        raise HubError(400, '"private" must be true or false.')
    if private is not None:
        return int(private)
    if wanted is None:
        return None
    if not isinstance(wanted, str) or wanted not in VISIBILITIES:
        raise HubError(400, f'"visibility" must be one of {", ".join(VISIBILITIES)}.')
    if wanted == "protected" and kind != "space":
        raise HubError(400, 'Only Spaces can be "protected".')
    return VISIBILITIES[wanted]


def settings(call: Call) -> Response:
    """Change visibility, gating, and whether there are discussions; answers with all as they are now."""
    request = call.json()
    changes: dict[str, Any] = {}
    private = visibility(request, call.kind)
    if private is not None:
        changes["private"] = private
    if request.get("gated") is not None:
        if request["gated"] not in ("auto", "manual", False):
            raise HubError(400, '"gated" must be "auto", "manual" or false.')
        changes["gated"] = request["gated"] or None
    if request.get("discussionsDisabled") is not None:
        if not isinstance(request["discussionsDisabled"], bool):
            raise HubError(400, '"discussionsDisabled" must be true or false.')
        changes["discussions"] = not request["discussionsDisabled"]
    echoed = _notifications(request)
    with call.store.db.write() as con:
        repo = call.writable_repo(con)
        if "private" in changes:
            con.execute("UPDATE repos SET private=? WHERE id=?", (changes["private"], repo.id))
        if "gated" in changes:
            con.execute("UPDATE repos SET gated=? WHERE id=?", (changes["gated"], repo.id))
        if "discussions" in changes:
            con.execute("UPDATE repos SET discussions=? WHERE id=?", (changes["discussions"], repo.id))
        repo = call.repo(con)
        now = {
            "private": bool(repo.private),
            "visibility": next(name for name, number in VISIBILITIES.items() if number == repo.private),
            "gated": repo.gated or False,
            "discussionsDisabled": not repo.discussions,
        }
        events.config_event(con, call, repo, now)
    return answer(now | echoed)


def _notifications(request: dict[str, Any]) -> dict[str, Any]:
    """Who is to be told of access requests, and how often: checked and given back, for no mail is sent from here."""
    mode, email = request.get("gatedNotificationsMode"), request.get("gatedNotificationsEmail")
    if mode not in (None, "bulk", "real-time"):
        raise HubError(400, '"gatedNotificationsMode" must be "bulk" or "real-time".')
    if email is not None and not (isinstance(email, str) and 2 < len(email) < 255 and "@" in email[1:-1]):
        raise HubError(400, '"gatedNotificationsEmail" must be an e-mail address.')
    given = {"gatedNotificationsMode": mode, "gatedNotificationsEmail": email}
    return {key: value for key, value in given.items() if value is not None}


def auth_check(call: Call) -> Response:
    """200 if the caller may read the files, or refused as a download would be."""
    with call.store.db.read() as con:
        call.readable_repo(con)
    return answer({})


def auth_check_write(call: Call) -> Response:
    """200 if the caller may commit."""
    with call.store.db.read() as con:
        call.writable_repo(con)
    return answer({})


ROUTES = [
    Route("PUT", f"{API_REPO}/settings", settings),
    Route("GET", f"{API_REPO}/auth-check", auth_check),
    Route("GET", f"{API_REPO}/auth-check/write", auth_check_write),
]
