"""Lists of repositories: filters, order and pages.

Filters are looked up in an indexed table of tags, and pages continue after the last row seen, so that a list of many
thousands costs no more per page than the rows that match. Order is always descending; equal values go newest first.
"""

import base64
import json
import sqlite3
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from hub_fusion.local_hub import lineage, spaces
from hub_fusion.local_hub.call import TAGS_UNTIL, Call, Route, answer
from hub_fusion.local_hub.errors import HubError
from hub_fusion.local_hub.info import LIST_EXPAND, base_models, check_expand, describe, select, siblings
from hub_fusion.local_hub.store import Repo
from hub_fusion.local_hub.users import sees_private

MAX_PAGE = 1000
GGUF_APPS = ("llama.cpp", "ollama", "lmstudio", "jan", "koboldcpp", "gpt4all", "docker-model-runner")
SAFETENSORS_APPS = ("vllm", "sglang", "tgi")
APPS = {"mlx-lm": "mlx"} | dict.fromkeys(GGUF_APPS, "gguf") | dict.fromkeys(SAFETENSORS_APPS, "safetensors")
MAX_DATE = 2**62
SORT_COLUMNS = {
    "createdAt": "created",
    "created_at": "created",
    "lastModified": "modified",
    "last_modified": "modified",
    "downloads": "downloads",
    "likes": "likes",
    "trendingScore": "trending",
    "trending_score": "trending",
}
LINKS = ("models", "datasets")
DEFAULT_FIELDS = [
    "_id",
    "id",
    "modelId",
    "private",
    "downloads",
    "likes",
    "tags",
    "pipeline_tag",
    "library_name",
    "createdAt",
    "trendingScore",
    "sdk",
]
DATASET_FIELDS = ["author", "sha", "lastModified", "gated", "disabled"]  # without being asked for
FULL_FIELDS = [*DATASET_FIELDS, "siblings", "runtime", "subdomain", *LINKS]
MULTIPLES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def list_repos(call: Call) -> Response:
    """One page; a Link header leads to the next."""
    query = call.request.query_params
    expand = check_expand(call.values("expand"), LIST_EXPAND[call.kind])
    sort = query.get("sort") or "trendingScore"
    if sort not in SORT_COLUMNS:
        raise HubError(400, f'"sort" must be one of {", ".join(SORT_COLUMNS)}.')
    column = SORT_COLUMNS[sort]
    page = _page_size(query.get("limit"))
    with call.store.db.read() as con:
        names = lineage.renamed(con)
    where, values = _conditions(call, names)
    after = _read_cursor(query.get("cursor"))
    if after is not None:
        where.append(f"(repos.{column}, repos.id) < (?, ?)")
        values += after
    call.store.flush_downloads()
    with call.store.db.read() as con:
        rows = con.execute(
            "SELECT repos.*, trees.facts AS facts FROM repos JOIN trees ON trees.id=repos.tree"  # noqa: S608 - constants
            f" WHERE {' AND '.join(where)} ORDER BY repos.{column} DESC, repos.id DESC LIMIT ?",
            [*values, page + 1],
        ).fetchall()
        items = [_item(con, call, row, expand, names) for row in rows[:page]]
    headers = {}
    if len(rows) > page:
        last = rows[page - 1]
        parameters = [(name, value) for name, value in query.multi_items() if name != "cursor"]
        parameters.append(("cursor", _write_cursor(last[column], last["id"])))
        headers["Link"] = f'<{call.base}{call.request.scope["path"]}?{urlencode(parameters)}>; rel="next"'
    return answer(items, headers=headers)


def _item(
    con: sqlite3.Connection, call: Call, row: sqlite3.Row, expand: list[str], names: dict[str, str]
) -> dict[str, Any]:
    fields = dict(row)
    facts = lineage.follow(json.loads(fields.pop("facts")), names)
    repo = Repo(**fields)
    shown = describe(con, call.store, repo, facts, sha=repo.head, modified=repo.modified)
    full = call.flag("full")
    if full or "siblings" in expand:
        shown["siblings"] = siblings(call.store.tree(con, repo.tree))
    if repo.kind == "space" and (full or "runtime" in expand):
        shown["runtime"] = spaces.runtime(con, call.store, repo)
    if expand:
        if "baseModels" in expand:
            shown["baseModels"] = base_models(con, facts)
        return select(shown, expand)
    wanted = [*DEFAULT_FIELDS, *(FULL_FIELDS if full else DATASET_FIELDS if repo.kind == "dataset" else ())]
    if full and repo.kind != "model":
        wanted.append("cardData")
    if any(call.values(key) for key in ("linked", *LINKS)):
        wanted += LINKS
    wanted += [name for name in ("config", "cardData") if call.flag(name)]
    wanted += ["cardData"] if full and repo.kind != "model" else []
    wanted += ["models", "datasets"] if call.flag("linked") else []
    return {name: shown[name] for name in wanted if shown.get(name) is not None or name in ("cardData", "config")}


def _conditions(call: Call, names: dict[str, str]) -> tuple[list[str], list[Any]]:
    query = call.request.query_params
    where, values = ["repos.kind=?"], [call.kind]  # type: tuple[list[str], list[Any]]
    accounts, named = sees_private(call.user)
    clauses = ["repos.private=0"]
    if accounts:
        clauses.append(f"repos.owner IN ({','.join('?' * len(accounts))})")
    if named and call.user:
        mine = call.user.accounts
        clauses.append(f"repos.id IN ({','.join('?' * len(named))}) AND repos.owner IN ({','.join('?' * len(mine))})")
        named = [*named, *mine]
    where.append(f"({' OR '.join(clauses)})")
    values += [*accounts, *named]
    for tag in [part for value in call.values("filter") for part in value.split(",") if part]:
        where.append("repos.id IN (SELECT repo FROM repo_tags WHERE tag=? AND since<=?)")
        values += [lineage.follow_tag(tag, names), call.request.scope.get(TAGS_UNTIL, MAX_DATE)]
    if query.get("author"):
        where.append("repos.owner=(SELECT id FROM accounts WHERE key=?)")
        values.append(query["author"].lower())
    for word in " ".join(query.getlist("search")).lower().split():
        where.append("instr(repos.key, ?) > 0")
        values.append(word)
    linked = "EXISTS (SELECT 1 FROM json_each(trees.facts, ?) WHERE type='text' AND lower(value)=?)"
    for key in LINKS if call.kind == "space" else ():
        for name in call.values(key):
            where.append(linked)
            values += [f"$.card.{key}", name.lower()]
    if call.kind == "space" and call.flag("linked"):
        where.append(f"({' OR '.join(linked.partition(' AND ')[0] + ')' for _ in LINKS)})")
        values += [f"$.card.{key}" for key in LINKS]
    for app in call.values("apps"):
        if app not in APPS:
            raise HubError(400, f'"apps" must be one of {", ".join(APPS)}.')
        where.append("repos.id IN (SELECT repo FROM repo_tags WHERE tag=?)")
        values.append(APPS[app])
    if query.get("pipeline_tag"):
        where.append("repos.pipeline=?")
        values.append(query["pipeline_tag"])
    if query.get("gated"):
        where.append("repos.gated IS NOT NULL" if call.flag("gated") else "repos.gated IS NULL")
    for bound in filter(None, (query.get("num_parameters") or "").split(",")):
        side, _, amount = bound.partition(":")
        where.append(f"repos.parameters {'>=' if side == 'min' else '<='} ?")
        values.append(_amount(amount))
    if query.get("inference") or query.get("inference_provider"):
        where.append("0")  # nothing here is served for inference
    return where, values


def _amount(text: str) -> int:
    unit = MULTIPLES.get(text[-1:].upper(), 1)
    try:
        return int(float(text[:-1] if unit > 1 else text) * unit)
    except (ValueError, OverflowError):
        raise HubError(400, '"num_parameters" must be like "min:6B,max:128B".') from None


def _page_size(limit: str | None) -> int:
    if not limit:
        return MAX_PAGE
    if not (limit.isascii() and limit.isdigit() and int(limit[:9]) > 0):
        raise HubError(400, '"limit" must be a positive number.')
    return min(int(limit[:9]), MAX_PAGE)


def _write_cursor(value: int, repo: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([value, repo]).encode()).decode()


def _read_cursor(cursor: str | None) -> list[int] | None:
    if not cursor:
        return None
    try:
        value, repo = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        if not all(type(item) is int and abs(item) < 2**62 for item in (value, repo)):
            raise ValueError("not two numbers")
        return [value, repo]
    except (ValueError, TypeError, RecursionError):
        raise HubError(400, "Invalid cursor.") from None


ROUTES = [Route("GET", "/api/{kind:hub_kind}", list_repos)]
