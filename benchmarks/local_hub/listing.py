"""How long the server takes to list the children of a popular base.

    python benchmarks/local_hub/listing.py [--size small] [--save]

Claim: of 10,000 models that all name one base, filtered by `base_model:finetune:…`, a page comes in under 100 ms
(median). Measured: GET /api/models over one connection, from the request sent to the answer read, for a page of 50 as a
watcher asks for and for the largest page, 1,000; the rows are copies of one real repository, put into the index.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from common import Server, parser, report
from huggingface_hub import CommitOperationAdd

MODELS = {"small": 1000, "full": 10_000}
CARD = b"---\nlicense: mit\nbase_model: bench/base\n---\n# a finetune\n"


def main() -> None:
    options = parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench-hub-") as scratch, Server(Path(scratch) / "hub") as server:
        server.api.create_repo("bench/child")
        server.api.create_commit("bench/child", [CommitOperationAdd("README.md", CARD)], commit_message="card")
        multiply(server.root, MODELS[options.size])
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        for limit in (50, 1000):
            for more in ("", "&full=true", "&expand=sha&expand=tags&expand=cardData&expand=lastModified"):
                query = f"filter=base_model:finetune:bench/base&sort=createdAt&limit={limit}{more}"
                seconds = []
                for _ in range(20):
                    began = time.perf_counter()
                    connection.request("GET", f"/api/models?{query}")
                    size = len(connection.getresponse().read())
                    seconds.append(time.perf_counter() - began)
                rows.append({"page": limit, "fields": more.replace("&expand=", " ").strip("& ") or "default",
                             "median ms": 1000 * statistics.median(seconds), "worst ms": 1000 * max(seconds),
                             "kB": size / 1000, "under 100 ms": statistics.median(seconds) < 0.1})  # fmt: skip
        connection.close()
    report("listing", options, {f"{MODELS[options.size]} children of one base": rows})


def multiply(root: Path, count: int) -> None:
    """Copy the one repository's row and tags."""
    from hub_fusion.local_hub.db import Database

    db = Database(root / "hub.sqlite3")
    with db.write() as con:
        row = dict(con.execute("SELECT * FROM repos").fetchone())
        tags = [dict(tag) for tag in con.execute("SELECT * FROM repo_tags WHERE repo=?", (row.pop("id"),))]
        for n in range(count):
            copy = row | {"full_name": f"bench/m-{n}", "key": f"bench/m-{n}", "created": n, "modified": n}
            new = con.execute(insert("repos", copy), list(copy.values())).lastrowid
            con.executemany(insert("repo_tags", tags[0]), [list((tag | {"repo": new}).values()) for tag in tags])
    db.close()


def insert(table: str, row: dict[str, object]) -> str:
    return f"INSERT INTO {table} ({','.join(row)}) VALUES ({','.join('?' * len(row))})"  # noqa: S608 - columns


if __name__ == "__main__":
    main()
