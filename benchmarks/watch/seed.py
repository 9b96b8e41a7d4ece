"""A Hub with a base and any number of repositories of the kinds in kinds.py, put straight into its store.

One repository of each kind is made through the Hub, as git would push it; the others are copies of its rows under other
names, with other owners and dates. A copy has the commits and files of its original.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import get_session, hf_raise_for_status
from kinds import BASE, HEADERS, METADATA, SOUND, UNLISTED, Files, Kind, root_files

from hub_fusion.local_hub import add_user, serve
from hub_fusion.local_hub.db import Database

MINUTE_MS = 60_000
COPIED = {"repo_tags": "repo", "commits": "repo", "refs": "repo", "repo_blobs": "repo"}
ACCOUNTS = 1000


def choose(count: int) -> list[tuple[str, Kind]]:
    """So many: 2 % sound, 3 % with faulty headers, the rest of faulty metadata or not listed; at least one of each."""
    shares = [(SOUND, count * 2 // 100), (HEADERS, count * 3 // 100)]
    rest = count - sum(max(share, len(kinds)) for kinds, share in shares)
    found = [pair for kinds, share in shares for pair in _cycle(kinds, max(share, len(kinds)))]
    return found + _cycle(METADATA | UNLISTED, max(rest, len(METADATA | UNLISTED)))


def _cycle(kinds: dict[str, Kind], count: int) -> list[tuple[str, Kind]]:
    pairs = list(kinds.items())
    return [pairs[n % len(pairs)] for n in range(count)]


def seed(root: Path, kinds: Iterable[tuple[str, Kind]]) -> tuple[dict[str, str], str]:
    """Fill the folder of a Hub; gives repository → expected verdict, and the token of the base's owner."""
    wanted = list(kinds)
    owner, _, _ = BASE.partition("/")
    tokens = {owner: add_user(root, owner), "first": add_user(root, "first")}
    with serve(root) as hub:
        push(hub.url, tokens[owner], BASE, root_files())
        HfApi(hub.url, token=tokens[owner]).create_tag(BASE, tag="gen-0")
        originals = {}
        for name, kind in dict(wanted).items():
            account = owner if kind.own else "first"
            originals[name] = repo = f"{account}/original-{len(originals)}"
            push(hub.url, tokens[account], repo, kind.files | {"README.md": f"---\n{kind.front}\n---\n# A\n".encode()})
            if kind.private or kind.gated:
                settings = {"visibility": "private"} if kind.private else {"gated": "auto"}
                HfApi(hub.url, token=tokens[account]).update_repo_settings(repo, **settings)
    expected = _copy(root, wanted, originals)
    return expected, tokens[owner]


def push(url: str, token: str, repo: str, files: Files) -> None:
    """Make a repository of these files: one commit that nobody has checked before."""
    HfApi(url, token=token).create_repo(repo)
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "Files"}}]
    for path, data in files.items():
        content = {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}
        lines.append({"key": "file", "value": content})
    answer = get_session().post(
        f"{url}/api/models/{repo}/commit/main", content="".join(json.dumps(line) + "\n" for line in lines),
        headers={"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"},
    )  # fmt: skip
    hf_raise_for_status(answer)


def _copy(root: Path, wanted: list[tuple[str, Kind]], originals: dict[str, str]) -> dict[str, str]:
    """The first of each kind is the original; the others are copies of it, a minute apart, the first ones newest."""
    expected, seen = {}, set[str]()
    database = Database(root / "hub.sqlite3")
    with database.write() as con:
        newest = con.execute("SELECT MAX(modified) FROM repos").fetchone()[0]
        rows = {name: _rows(con, repo) for name, repo in originals.items()}
        account = dict(con.execute("SELECT * FROM accounts WHERE name='first'").fetchone())
        accounts = []
        for number in range(min(ACCOUNTS, len(wanted))):
            new = account | {
                "id": None,
                "hex": secrets.token_hex(12),
                "name": f"user-{number}",
                "key": f"user-{number}",
            }
            accounts.append((f"user-{number}", _insert(con, "accounts", new)))
        for number, (name, kind) in enumerate(wanted):
            if name not in seen:
                seen.add(name)
                expected[originals[name]] = kind.expected
                con.execute("UPDATE repos SET modified=?, created=? WHERE full_name=?",
                            (newest - number * MINUTE_MS, newest - number * MINUTE_MS, originals[name]))  # fmt: skip
                continue
            original, children = rows[name]
            owner, owner_id = accounts[number % len(accounts)]
            repo = f"{BASE.partition('/')[0] if kind.own else owner}/model-{number}"
            new = original | {"id": None, "hex": secrets.token_hex(12), "full_name": repo, "key": repo.lower()}
            new |= {"created": newest - number * MINUTE_MS, "modified": newest - number * MINUTE_MS}
            new |= {} if kind.own else {"owner": owner_id}
            id = _insert(con, "repos", new)
            for table, row in children:
                _insert(con, table, row | {COPIED[table]: id})
            expected[repo] = kind.expected
    database.close()
    return expected


def _rows(con: Any, repo: str) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    row = dict(con.execute("SELECT * FROM repos WHERE full_name=?", (repo,)).fetchone())
    found = [
        (table, dict(child))
        for table, column in COPIED.items()
        for child in con.execute(f"SELECT * FROM {table} WHERE {column}=?", (row["id"],))  # noqa: S608 - constants
    ]
    return row, found


def _insert(con: Any, table: str, row: dict[str, Any]) -> int:
    columns, marks = ",".join(row), ",".join("?" * len(row))
    return int(con.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", list(row.values())).lastrowid)  # noqa: S608
