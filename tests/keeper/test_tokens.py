"""What of an environment a worker gets: no token, by whatever name and in whatever file, but one for reading."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from loop.world import python_environment

from hub_fusion.hub.logins import stored_logins
from hub_fusion.keeper.tokens import NAMES, READ_TOKEN, without_tokens

WRITE, READ = "hf_" + "w" * 34, "hf_" + "r" * 34
ASK = """
import json, huggingface_hub as hub
from huggingface_hub.utils import build_hf_headers, get_stored_tokens
from hub_fusion.hub import Hub
api = Hub("http://127.0.0.1:1").api
headers = build_hf_headers(), api._build_hf_headers()
print(json.dumps([hub.get_token(), *(found.get("authorization") for found in headers), get_stored_tokens()]))
"""


def asked(environment: dict[str, str]) -> list[object]:
    """What the unmodified client finds in an environment."""
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def logged_in(folder: Path) -> dict[str, str]:
    """The environment of somebody who has the write token everywhere: in a file, in variables, inside of others."""
    found = python_environment(folder) | dict.fromkeys(NAMES - {READ_TOKEN, "HF_TOKEN_PATH"}, WRITE)
    home = folder / "hf"
    home.mkdir(exist_ok=True)
    (home / "token").write_text(WRITE)
    (home / "stored_tokens").write_text(f"[laptop]\nhf_token = {WRITE}\n")
    return found | {"NETRC_LINE": f"password {WRITE}", "OTHER": "kept"}


def test_the_client_finds_no_token_where_there_was_one_everywhere(tmp_path: Path) -> None:
    """The unmodified client is asked, so that a new way to find tokens fails here."""
    before = logged_in(tmp_path)
    del before["HF_OIDC_RESOURCE"]  # by which the client would go to huggingface.co for one
    assert asked(before)[:2] == [WRITE, f"Bearer {WRITE}"]
    after = without_tokens(before, WRITE)
    assert WRITE not in json.dumps(after) and after["OTHER"] == "kept" and after["HF_HOME"] == before["HF_HOME"]
    assert asked(after) == [None, None, None, {}]


def test_a_token_for_reading_is_all_that_the_client_finds(tmp_path: Path) -> None:
    after = without_tokens(logged_in(tmp_path) | {READ_TOKEN: READ}, WRITE)
    assert asked(after) == [READ, f"Bearer {READ}", f"Bearer {READ}", {}]


@pytest.mark.parametrize("token", [None, "", "a"])
def test_without_a_token_nothing_else_is_lost(token: str | None) -> None:
    """A text that is in every value must not empty the environment."""
    environment = {"PATH": "/a", "HOME": "/b", "HF_ENDPOINT": "http://a"}
    assert environment.items() <= without_tokens(environment, token).items()


def test_a_stored_login_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "stored_tokens"))
    assert stored_logins() == []
    (tmp_path / "stored_tokens").touch()
    assert stored_logins() == [tmp_path / "stored_tokens"]
