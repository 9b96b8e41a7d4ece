"""Pull requests: where a commit may go, opening, comparing and merging.

A pull request grows on its own ref from the commit it began at; merging makes one commit on its target branch with
what it changed since then. Who may read a repository may propose to it; who may write to it merges.
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

from hub_fusion.local_hub import diffs, history, threads
from hub_fusion.local_hub.call import Call
from hub_fusion.local_hub.errors import HubError, revision_not_found
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.threads import Thread
from hub_fusion.local_hub.trees import Tree, check_no_clash
from hub_fusion.local_hub.users import User, check_can_discuss, check_can_write, manages

PULL_REF = "refs/pr/"


@dataclass(frozen=True)
class Comparison:
    """A pull request against its target: both heads, the files at their common ancestor and at each head."""

    target_head: str
    head: str
    base: Tree
    ours: Tree
    theirs: Tree

    @property
    def conflicts(self) -> list[str]:
        """The files that both sides changed differently."""
        return diffs.merge(self.base, self.ours, self.theirs)[1]


def uploadable_repo(con: sqlite3.Connection, call: Call, revision: str | None = None) -> Repo:
    """The repository of the path, if the caller may send files for it: to write, or to propose a change.

    Without a revision (git-lfs names none) either right will do: content alone changes no repository.
    """
    repo = call.repo(con)
    if revision is not None and revision.startswith(PULL_REF):
        check_can_push(con, call.user, repo, of_ref(con, repo, revision))
    elif call.flag("create_pr") or (revision is None and not _writes(con, call.user, repo)):
        check_can_discuss(con, call.user, repo)
    else:
        check_can_write(con, call.user, repo)
    return repo


def of_ref(con: sqlite3.Connection, repo: Repo, ref: str) -> Thread:
    """The pull request whose commits are at ``refs/pr/N``; RevisionNotFound."""
    try:
        return threads.find(con, repo, ref.removeprefix(PULL_REF))
    except HubError:
        raise revision_not_found(ref) from None


def check_can_push(con: sqlite3.Connection, user: User | None, repo: Repo, thread: Thread) -> User:
    """The caller, if it may add commits to this pull request: its author, or who may write to the repository."""
    if not thread.pull:
        raise revision_not_found(thread.ref)
    check = check_can_discuss if user is not None and user.id == thread.author else check_can_write
    user = check(con, user, repo)
    if thread.status == "merged":
        raise HubError(403, f"Pull request {thread.num} is merged: open another one.")
    return user


def _writes(con: sqlite3.Connection, user: User | None, repo: Repo) -> bool:
    return user is not None and manages(con, user, repo.owner, repo.id)


def open_pull(
    con: sqlite3.Connection, repo: Repo, user: User, title: str, text: str, *, start: str, target: str, status: str
) -> Thread:
    """A pull request whose ref is at the commit `start`."""
    thread = threads.open_thread(con, repo, user, title, text, status=status, target=target)
    history.point(con, repo.id, thread.ref, start)
    return thread


def note_commit(con: sqlite3.Connection, thread: Thread, user: User, subject: str, oid: str) -> None:
    """Show a commit in the thread of its pull request."""
    threads.add_event(con, thread, user, "commit", {"subject": subject, "oid": oid})


def compare(con: sqlite3.Connection, call: Call, repo: Repo, thread: Thread) -> Comparison:
    """Both sides of a pull request and where they parted; a target that is gone counts as unchanged."""
    head = call.store.resolve(con, repo, thread.ref).oid
    try:
        target_head = call.store.resolve(con, repo, thread.target or history.MAIN).oid
    except HubError:
        target_head = head
    line = list(history.ancestors(con, repo, head))
    main = {commit.oid for commit in history.ancestors(con, repo, target_head)}
    parted = next((commit for commit in line if commit.oid in main), line[-1])
    trees = [call.store.tree(con, call.store.commit(con, repo, oid).tree) for oid in (parted.oid, target_head, head)]
    return Comparison(target_head, head, *trees)


def details(con: sqlite3.Connection, call: Call, repo: Repo, thread: Thread, *, diff: bool) -> dict[str, Any]:
    """What a pull request's page has beyond a discussion's."""
    changes = {"base": thread.target}
    conflicts: list[str] = []
    if thread.merged:
        changes["mergeCommitId"] = thread.merged
        before, after = _merged(con, call, repo, thread.merged)
    else:
        sides = compare(con, call, repo, thread)
        before, after, conflicts = sides.base, sides.theirs, sides.conflicts
    shown: dict[str, Any] = {"changes": changes, "filesWithConflicts": conflicts}
    if diff:
        shown["diff"] = diffs.git_diff(call.store.blobs, before, after)
    return shown


def _merged(con: sqlite3.Connection, call: Call, repo: Repo, oid: str) -> tuple[Tree, Tree]:
    """The files before and after a merge; nothing where a squash has dropped it from the history."""
    try:
        commit = call.store.commit(con, repo, oid)
        parent = call.store.commit(con, repo, commit.parent or "")
    except HubError:
        return {}, {}
    return call.store.tree(con, parent.tree), call.store.tree(con, commit.tree)


def merge(con: sqlite3.Connection, call: Call, repo: Repo, thread: Thread, user: User) -> tuple[str, str]:
    """Bring a pull request into its target as one commit; returns the target's (old, new) head."""
    if not thread.pull or thread.status != "open":
        raise HubError(400, f"Only an open pull request can be merged; number {thread.num} is {thread.status}.")
    sides = compare(con, call, repo, thread)
    after, conflicts = diffs.merge(sides.base, sides.ours, sides.theirs)
    if conflicts:
        raise HubError(409, f"Pull request {thread.num} conflicts with its target in {', '.join(conflicts[:20])}.")
    check_no_clash(after)
    commits = [event["data"] for event in threads.events(con, thread) if event["type"] == "commit"]
    lines = [f"- {commit['subject']} ({commit['oid']})" for commit in commits]
    if thread.author != user.id:
        lines += ["", f"Co-authored-by: {thread.author_name} <{thread.author_name}@users.noreply.huggingface.co>"]
    commit = history.add_commit(
        con,
        call.store,
        repo.id,
        thread.target or history.MAIN,
        {path: after[path] for path in sorted(after)},
        parent=sides.target_head,
        title=f"{thread.title} (#{thread.num})",
        message="\n".join(lines),
        author=user.name,
    )
    threads.set_status(con, thread, user, "merged", mergeCommitId=commit.oid)
    return sides.target_head, commit.oid
