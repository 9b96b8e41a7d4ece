"""One repository as `model_info` and its kin see it, at its head or at a revision."""

import json
import sqlite3
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub import lineage, spaces
from hub_fusion.local_hub.call import API_REPO, Call, Route, answer
from hub_fusion.local_hub.cards import RELATIONS
from hub_fusion.local_hub.db import iso
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.facts import Facts
from hub_fusion.local_hub.store import Repo, Store
from hub_fusion.local_hub.trees import Tree, lfs_pointer
from hub_fusion.local_hub.users import User, may_see

_EXPAND = {
    "model": """author baseModels cardData config createdAt disabled downloads downloadsAllTime evalResults gated gguf
        inference inferenceProviderMapping lastModified library_name likes mask_token model-index pipeline_tag private
        resourceGroup safetensors sha siblings spaces tags transformersInfo trendingScore widgetData xetEnabled""",
    "dataset": """author cardData citation createdAt description disabled downloads downloadsAllTime gated lastModified
        likes mainSize paperswithcode_id private resourceGroup sha siblings tags trendingScore xetEnabled""",
    "space": """author cardData createdAt datasets disabled lastModified likes models private region resourceGroup
        runtime sdk sha siblings subdomain tags trendingScore xetEnabled""",
}
LIST_EXPAND = {kind: names.split() for kind, names in _EXPAND.items()}
DETAIL_EXPAND = {kind: [*names, "usedStorage"] for kind, names in LIST_EXPAND.items()}
DETAIL_EXPAND["model"].append("childrenModelCount")
EXPAND_ONLY = {"baseModels", "childrenModelCount", "downloadsAllTime"}


def detail(call: Call) -> Response:
    """The repository at the head of main, or at `rev`."""
    expand = check_expand(call.values("expand"), DETAIL_EXPAND[call.kind])
    store = call.store
    store.flush_downloads()
    with store.db.read() as con:
        repo = call.repo(con)
        revision = call.params.get("rev")
        if revision is None:
            sha, tree_id, modified = repo.head, repo.tree, repo.modified
        else:
            commit = store.resolve(con, repo, revision)
            sha, tree_id, modified = commit.oid, commit.tree, commit.date
        facts = json.loads(con.execute("SELECT facts FROM trees WHERE id=?", (tree_id,)).fetchone()["facts"])
        facts = lineage.follow(facts, lineage.renamed(con))
        shown = describe(con, store, repo, facts, sha=sha, modified=modified)
        shown["siblings"] = siblings(store.tree(con, tree_id), blobs=call.flag("blobs"))
        shown["baseModels"] = base_models(con, facts)
        if repo.kind == "space":
            shown["runtime"] = spaces.runtime(con, store, repo)
        elif not expand or "spaces" in expand:
            shown["spaces"] = users_of(con, call.user, repo)
        if not expand or "usedStorage" in expand:
            total = con.execute("SELECT SUM(size) FROM repo_blobs WHERE repo=?", (repo.id,)).fetchone()[0]
            shown["usedStorage"] = total or 0
        if "childrenModelCount" in expand:
            shown["childrenModelCount"] = children(con, call.user, repo)
        if call.flag("securityStatus"):
            shown["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return answer(select(shown, expand))


def check_expand(values: list[str], known: list[str]) -> list[str]:
    """The asked fields; 400 in the Hub's words if one is unknown here."""
    for at, value in enumerate(values):
        if value not in known:
            options = "|".join(f'"{name}"' for name in sorted(known))
            raise HubError(400, f"✖ Invalid option: expected one of {options}\n  → at expand[{at}]")
    return values


def select(shown: dict[str, Any], expand: list[str]) -> dict[str, Any]:
    """All default fields, or only ids and the asked ones. What a repository does not have is left out."""
    if expand:
        keep = {"_id", "id", *expand}
        shown = {key: value for key, value in shown.items() if key in keep}
    else:
        shown = {key: value for key, value in shown.items() if key not in EXPAND_ONLY}
    return {key: value for key, value in shown.items() if value is not None or key in ("cardData", "config")}


def describe(
    con: sqlite3.Connection, store: Store, repo: Repo, facts: Facts, *, sha: str, modified: int
) -> dict[str, Any]:
    """The fields that lists and details share."""
    shown: dict[str, Any] = {
        "_id": repo.hex,
        "id": repo.full_name,
        "author": repo.full_name.partition("/")[0],
        "sha": sha,
        "private": bool(repo.private),
        "gated": repo.gated or False,
        "disabled": False,
        "lastModified": iso(modified),
        "createdAt": iso(repo.created),
        "downloads": repo.downloads,
        "downloadsAllTime": repo.downloads,
        "likes": repo.likes,
        "trendingScore": repo.trending,
        "tags": spaces.tags_of(repo, facts),
        "cardData": facts["card"],
    }
    if repo.kind == "model":
        shown |= {
            "modelId": repo.full_name,
            "library_name": facts["library"],
            "pipeline_tag": facts["pipeline"],
            "config": facts["config"],
            "safetensors": facts["safetensors"],
            "model-index": (facts["card"] or {}).get("model-index"),
            "widgetData": _widget(facts),
            "xetEnabled": True,
        }
    elif repo.kind == "space":
        shown |= {
            "sdk": spaces.sdk_of(repo, facts),
            "subdomain": repo.full_name.replace("/", "-").lower(),
            "models": spaces.linked(facts, "models"),
            "datasets": spaces.linked(facts, "datasets"),
        }
    return shown


def _widget(facts: Facts) -> list[Any] | None:
    """The examples that a model's card gives to try it with."""
    widget = (facts["card"] or {}).get("widget")
    return widget if isinstance(widget, list) else None


def siblings(tree: Tree, *, blobs: bool = False) -> list[dict[str, Any]]:
    """The files; with `blobs`, their sizes and hashes."""
    found = []
    for path, entry in tree.items():
        item: dict[str, Any] = {"rfilename": path}
        if blobs:
            item |= {"size": entry.size, "blobId": entry.oid}
            if entry.lfs:
                pointer = len(lfs_pointer(entry.blob, entry.size))
                item["lfs"] = {"sha256": entry.blob, "size": entry.size, "pointerSize": pointer}
        found.append(item)
    return found


def base_models(con: sqlite3.Connection, facts: Facts) -> dict[str, Any] | None:
    """The relation and the bases, with the ids of those that are on this Hub."""
    if not facts["bases"]:
        return None
    models = []
    for name in facts["bases"]["models"]:
        row = con.execute("SELECT hex FROM repos WHERE kind='model' AND key=?", (name.lower(),)).fetchone()
        models.append({"_id": row["hex"] if row else "0" * 24, "id": name})
    return {"relation": facts["bases"]["relation"], "models": models}


def users_of(con: sqlite3.Connection, user: User | None, repo: Repo) -> list[str]:
    """The Spaces that the caller may see whose cards name this model or dataset."""
    rows = con.execute(
        "SELECT repos.* FROM repos JOIN trees ON trees.id=repos.tree WHERE kind='space' AND instr(lower(facts), ?)>0"
        " AND EXISTS (SELECT 1 FROM json_each(facts, ?) WHERE type='text' AND lower(value)=?) ORDER BY repos.id",
        (repo.key, f"$.card.{repo.kind}s", repo.key),  # most are passed over without reading their JSON
    )
    return [space.full_name for space in (Repo(**row) for row in rows) if may_see(user, space)]


def children(con: sqlite3.Connection, user: User | None, repo: Repo) -> dict[str, int]:
    """How many models that the caller may see name this one as their base, by relation."""
    counts = {}
    for relation in RELATIONS:
        rows = con.execute(
            "SELECT repos.* FROM repo_tags JOIN repos ON repos.id=repo WHERE tag=? AND kind='model'",
            (f"base_model:{relation}:{repo.full_name}",),
        )
        count = sum(may_see(user, Repo(**row)) for row in rows)
        if count:
            counts[relation] = count
    return counts


ROUTES = [
    Route("GET", API_REPO, detail),
    Route("GET", f"{API_REPO}/revision/{{rev}}", detail),
]
