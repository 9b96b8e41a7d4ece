"""What happens on the Hub, told to the webhooks that watch it.

An event is written as deliveries in the transaction of the change itself: a change that was acknowledged is told even
if the server is killed the moment after, and one that was rolled back never is. `deliveries` sends them.
"""

import json
import sqlite3
from typing import Any

from hub_fusion.local_hub import job_records
from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.db import new_hex_id, now_ms
from hub_fusion.local_hub.deliveries import forget_old
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.threads import Thread

VERSION = 3
CREATE, UPDATE, DELETE, MOVE = "create", "update", "delete", "move"


def repo_event(con: sqlite3.Connection, call: Call, repo: Repo, action: str, **more: Any) -> None:
    """The repository itself came, went or got another name (`movedTo`)."""
    emit(con, call, repo, action, "repo", **more)


def content_event(con: sqlite3.Connection, call: Call, repo: Repo, ref: str, old: str | None, new: str | None) -> None:
    """A ref moved from one commit to another; None where it was not there or is not any more."""
    emit(con, call, repo, UPDATE, "repo.content", updatedRefs=[{"ref": ref, "oldSha": old, "newSha": new}])


def config_event(con: sqlite3.Connection, call: Call, repo: Repo, config: dict[str, Any]) -> None:
    """Settings, variables or secrets changed; secrets are named only."""
    emit(con, call, repo, UPDATE, "repo.config", updatedConfig=config)


def thread_event(
    con: sqlite3.Connection, call: Call, repo: Repo, action: str, thread: Thread, comment: dict[str, Any] | None = None
) -> None:
    """A discussion changed or, with `comment`, what was said in it."""
    page = f"{repo.url_path}/discussions/{thread.num}"
    url = {
        "web": f"{call.base}/{page}",
        "api": f"{call.base}/api/{repo.kind}s/{repo.full_name}/discussions/{thread.num}",
    }
    shown: dict[str, Any] = {
        "id": thread.hex,
        "title": thread.title,
        "url": url,
        "status": thread.status,
        "author": {"id": thread.author_hex},
        "isPullRequest": bool(thread.pull),
        "num": thread.num,
    }
    if thread.pull:
        shown["changes"] = {"base": thread.target}
        if thread.merged:
            shown["changes"]["mergeCommitId"] = thread.merged
    more: dict[str, Any] = {"discussion": shown}
    if comment is not None:
        author = con.execute("SELECT hex FROM accounts WHERE name=?", (comment["author"]["name"],)).fetchone()
        more["comment"] = {
            "id": comment["id"],
            "author": {"id": author["hex"]},
            "content": comment["data"]["latest"]["raw"],
            "hidden": comment["data"]["hidden"],
            "url": {"web": f"{url['web']}#{comment['id']}"},
        }
    emit(con, call, repo, action, "discussion" if comment is None else "discussion.comment", **more)


def emit(con: sqlite3.Connection, call: Call, repo: Repo, action: str, scope: str, **more: Any) -> None:
    """Write one delivery for each webhook that watches the repository or its owner and may see it."""
    watching = [
        row for row in con.execute("SELECT * FROM webhooks WHERE disabled=0") if _concerns(con, row, repo, scope)
    ]
    if not watching:
        return
    payload = {"event": {"action": action, "scope": scope}, "repo": _repo(con, call, repo, scope), **more}
    now = now_ms()
    for row in watching:
        body = payload | {"webhook": {"id": row["hex"], "version": VERSION}}
        hex_id = new_hex_id()
        con.execute(
            "INSERT INTO deliveries (hex, webhook, payload, status, due, created) VALUES (?, ?, ?, 'pending', ?, ?)",
            (hex_id, row["id"], json.dumps(body), now, now),
        )
        if row["job"]:
            start_job(con, row, hex_id)


def start_job(con: sqlite3.Connection, webhook: sqlite3.Row, delivery: str) -> None:
    """Deliver to a webhook that starts a job: the job is there with the event."""
    row = con.execute("SELECT * FROM deliveries WHERE hex=?", (delivery,)).fetchone()
    error = job_records.insert_for_webhook(con, webhook, delivery, row["payload"])
    con.execute(
        "UPDATE deliveries SET status=?, attempts=attempts+1, finished=?, error=? WHERE id=?",
        ("failed" if error else "delivered", now_ms(), error, row["id"]),
    )
    forget_old(con, webhook["id"])


def _concerns(con: sqlite3.Connection, webhook: sqlite3.Row, repo: Repo, scope: str) -> bool:
    if scope.partition(".")[0] not in json.loads(webhook["domains"]):
        return False
    owner = repo.key.partition("/")[0]
    watched = {(item["type"], item["name"].lower()) for item in json.loads(webhook["watched"])}
    if watched.isdisjoint({(repo.kind, repo.key), ("user", owner), ("org", owner)}):
        return False
    if not repo.private or repo.owner == webhook["account"]:
        return True
    member = con.execute("SELECT 1 FROM members WHERE org=? AND user=?", (repo.owner, webhook["account"])).fetchone()
    return member is not None


def _repo(con: sqlite3.Connection, call: Call, repo: Repo, scope: str) -> dict[str, Any]:
    owner = con.execute("SELECT hex FROM accounts WHERE id=?", (repo.owner,)).fetchone()["hex"]
    shown: dict[str, Any] = {
        "type": repo.kind,
        "name": repo.full_name,
        "id": repo.hex,
        "private": bool(repo.private),
        "url": {"web": f"{call.base}/{repo.url_path}", "api": f"{call.base}/api/{repo.kind}s/{repo.full_name}"},
        "owner": {"id": owner},
    }
    if scope.startswith("repo"):
        shown["headSha"] = con.execute("SELECT head FROM repos WHERE id=?", (repo.id,)).fetchone()["head"]
        rows = con.execute("SELECT tag FROM repo_tags WHERE repo=? ORDER BY tag", (repo.id,))
        shown["tags"] = [row["tag"] for row in rows]
    if repo.kind == "space":
        shown["subdomain"] = repo.full_name.replace("/", "-").lower()
    return shown
