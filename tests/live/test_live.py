"""The loop against a Hub that is not ours: publish a generation, read it back as anybody would, clean up.

``HUB_FUSION_LIVE_ENDPOINT=https://huggingface.co HF_TOKEN=hf_… pytest tests/live`` makes private repositories named
hub-fusion-demo-… under the token's account and deletes them. The same body runs against a local Hub, so that it works
on the day it is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from loop.world import hub_fusion, python_environment

from hub_fusion.demo.hostile import HOSTILE
from hub_fusion.errors import RepoMissing
from hub_fusion.hub import Hub
from hub_fusion.local_hub import add_user, serve

LOAD = """
import sys
from transformers import AutoModelForImageClassification as M
print(M.from_pretrained(sys.argv[1], revision="gen-1", num_labels=3).num_labels)
"""


def play(endpoint: str, token: str, folder: Path) -> None:
    """One generation with everybody under one account; the repositories are gone afterwards, whatever happened."""
    environment = python_environment(folder) | {"HF_TOKEN": token}
    options = {"env": environment, "cwd": folder, "capture_output": True, "text": True, "timeout": 900}
    command = hub_fusion("demo", "--endpoint", endpoint)
    hub = Hub(endpoint, token, folder / "cache")
    base = f"{hub.account()}/hub-fusion-demo-base"
    try:
        done = subprocess.run([*command, "--generations", "1", "--json"], **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["base"] == base and [g["tag"] for g in found["generations"]] == ["gen-0", "gen-1"]
        assert len(found["generations"][1]["contributions"]) == 7
        assert {r["code"] for r in found["generations"][1]["refusals"]} == {h.code for h in HOSTILE}
        tags = hub.tags(base)
        assert tags["gen-1"] == hub.branches(base)["main"] and hub.model(base).private
        options["env"] = environment | {"HF_ENDPOINT": endpoint}
        loaded = subprocess.run([sys.executable, "-c", LOAD, base], **options)  # type: ignore[call-overload]
        assert loaded.stdout.strip() == "3", loaded.stderr[-3000:]
        status = subprocess.run(hub_fusion("status", base, "--json"), **options)  # type: ignore[call-overload]
        assert json.loads(status.stdout)["generation"] == 1
    finally:
        cleaned = subprocess.run([*command, "--clean"], **options)  # type: ignore[call-overload]
    assert cleaned.returncode == 0, cleaned.stderr
    with pytest.raises(RepoMissing):
        hub.model(base)


@pytest.mark.slow
def test_the_live_test_itself_works_on_a_local_hub(tmp_path: Path) -> None:
    token = add_user(tmp_path / "store", "somebody")
    with serve(tmp_path / "store") as hub:
        play(hub.url, token, tmp_path)
        assert list(Hub(hub.url, token, tmp_path / "c").api.list_models(author="somebody")) == []


@pytest.mark.live
def test_one_generation_on_a_live_hub(tmp_path: Path) -> None:
    endpoint, token = os.environ.get("HUB_FUSION_LIVE_ENDPOINT"), os.environ.get("HF_TOKEN")
    if not endpoint or not token:
        pytest.skip("needs HUB_FUSION_LIVE_ENDPOINT, for example https://huggingface.co, and a write token in HF_TOKEN")
    play(endpoint.rstrip("/"), token, tmp_path)
