"""Git itself is not served: `git clone`, `fetch` and `push` are told so, in words that git prints.

Git shows the text of a refusal only if it is text/plain, and takes a 404 for a repository that does not exist.
"""

from starlette.responses import PlainTextResponse, Response

from hub_fusion.local_hub.call import FILE_REPOS, Call, Route
from hub_fusion.local_hub.errors import HubError

REFUSAL = (
    "Git is not served by this Hub, only its HTTP API. Use `hf download NAMESPACE/NAME --local-dir DIR`"
    " and `hf upload NAMESPACE/NAME DIR`, or huggingface_hub."
)


def refuse(call: Call) -> Response:
    """501 for every name: whether there is such a repository is not told."""
    if call.request.headers.get("user-agent", "").startswith("git/"):
        return PlainTextResponse(REFUSAL + "\n", 501)
    raise HubError(501, REFUSAL)


ROUTES = [Route("GET", f"{repo}/info/refs", refuse, token=False) for repo in reversed(FILE_REPOS)]
