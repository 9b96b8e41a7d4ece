"""A Hub on this machine: a server that speaks the Hugging Face Hub's HTTP API over one folder.

The unmodified ``huggingface_hub`` client works against it with nothing set but ``HF_ENDPOINT``:

    >>> token = add_user(Path("hub"), "alice")
    >>> with serve(Path("hub")) as hub:
    ...     HfApi(endpoint=hub.url, token=token).create_repo("alice/base")

It is meant for tests and rehearsals that must see real conflicts, real refusals and real files. It knows nothing of the
rest of the package and is spoken to over HTTP only. Importing it imports no web framework.

Not covered: running Spaces and jobs, git itself, quotas and TLS. It trusts its operator: whoever can write to the
folder owns the Hub.
"""

from hub_fusion.local_hub.job_stages import set_job_stage
from hub_fusion.local_hub.server import LocalHub, run, serve
from hub_fusion.local_hub.short_names import add_short_name
from hub_fusion.local_hub.users import add_member, add_user

__all__ = ["LocalHub", "add_member", "add_short_name", "add_user", "run", "serve", "set_job_stage"]
