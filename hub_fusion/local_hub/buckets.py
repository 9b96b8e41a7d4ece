"""Buckets are not served: a sentence instead of a missing route, for those whose client makes one on the way."""

from starlette.responses import Response

from hub_fusion.local_hub.call import Call, Route
from hub_fusion.local_hub.errors import HubError


def refuse(call: Call) -> Response:
    """501."""
    raise HubError(
        501,
        "Buckets are not served here. A job with a local script or folder would upload it to one: give the script's"
        " URL, or commit it to a repository and mount that.",
    )


ROUTES = [Route(method, "/api/buckets/{rest:path}", refuse) for method in ("GET", "POST", "PUT", "DELETE")]
