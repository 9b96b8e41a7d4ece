"""A copy of a Hub's folder is another Hub, also where it answers under the address of the first."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from huggingface_hub import HfApi

from hub_fusion.local_hub import add_user, serve


def test_uploads_reach_a_copy_that_is_served_at_the_same_address(tmp_path: Path) -> None:
    """The client remembers which chunks it has sent to a URL, and only refers to them from then on."""
    first, second = tmp_path / "first", tmp_path / "second"
    token = add_user(first, "ann")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    content = os.urandom(400_000)
    with serve(first, port=port) as hub:
        HfApi(hub.url, token).create_repo("ann/model")
    shutil.copytree(first, second)
    for folder in (first, second):
        with serve(folder, port=port) as hub:
            api = HfApi(hub.url, token)
            api.upload_file(repo_id="ann/model", path_in_repo="model.safetensors", path_or_fileobj=content)
            info = api.get_paths_info("ann/model", "model.safetensors")[0]
            assert info.size == len(content)  # type: ignore[union-attr]
