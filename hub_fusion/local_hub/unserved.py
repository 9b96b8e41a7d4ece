"""What the Hub has and this one has not: refused by name, so that nobody looks for a wrong address.

A topic after all others: what they serve, they serve.
"""

from typing import NoReturn

from hub_fusion.local_hub.call import API_REPO, Call, Route
from hub_fusion.local_hub.errors import HubError

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PARTS = {
    "daily_papers": "Papers are",
    "kernels": "Kernels are",
    "models-tags-by-type": "A catalogue of tags is",
    "datasets-tags-by-type": "A catalogue of tags is",
    "papers": "Papers are",
    "repos-search": "Search over everything is",
}


def part(call: Call) -> NoReturn:
    """501 for a part of the Hub."""
    what = PARTS[call.request.scope["path"].split("/")[2]]
    raise HubError(501, f"{what} not served here.")


def leaderboard(call: Call) -> NoReturn:
    """501 where there is a repository, or its refusal."""
    with call.store.db.read() as con:
        call.repo(con)
    raise HubError(501, "Leaderboards are not served here.")


ROUTES = [
    *(Route(method, f"/api/{name}", part) for name in PARTS for method in METHODS),
    *(Route(method, f"/api/{name}/{{rest:path}}", part) for name in PARTS for method in METHODS),
    Route("GET", f"{API_REPO}/leaderboard", leaderboard),
]
