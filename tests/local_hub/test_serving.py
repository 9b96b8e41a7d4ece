"""`hub-fusion hub serve`, as the local Hub's README shows it."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import httpx, parse_ratelimit_headers

from hub_fusion.local_hub import add_user, serve

from .conftest import PROJECT, send

README = (PROJECT / "hub_fusion" / "local_hub" / "README.md").read_text()


def block(heading: str, language: str) -> str:
    """The README's block of code in a language under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0]


@contextmanager
def serving(command: str, folder: Path) -> Iterator[str]:
    """Run a README's command in a folder, on a port of its own; gives the URL."""
    arguments = [sys.executable, "-m", "hub_fusion", *command.split()[1:], "--port", "0"]
    environment = {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_rate_limits_as_the_readme_shows_them(tmp_path) -> None:
    """The numbers of the command are those of the headers."""
    token = add_user(tmp_path / "hub", "alice")
    with serving(block("Rate limits", "sh"), tmp_path) as url:
        asked = {"/api/models": ("api", 1000), "/a/b/resolve/main/c": ("resolvers", 5000), "/a/b": ("pages", 200)}
        for path, (bucket, quota) in asked.items():
            found = parse_ratelimit_headers(send(url, "GET", path, token=token).headers)
            assert found is not None and (found.resource_type, found.limit) == (bucket, quota)
            assert found.remaining == quota - 1 and found.reset_in_seconds == found.window_seconds == 300


def test_faults_as_the_readme_shows_them(tmp_path) -> None:
    """A commit whose answer is lost, an info that is late, and a log that tells of both."""
    (tmp_path / "faults.yaml").write_text(block("Faults", "yaml"))
    api = HfApi(token=add_user(tmp_path / "hub", "alice"))
    with serving(block("Faults", "sh"), tmp_path) as url:
        api.endpoint = url
        api.create_repo("alice/m")
        with pytest.raises(httpx.TransportError):
            api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="alice/m")
        newest = api.list_repo_commits("alice/m")[0]
        assert newest.title.startswith("Upload a.txt")
        log = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
        assert [(hit["rule"], hit["kind"], hit["when"], hit["status"]) for hit in log] == [(0, "drop", "after", 200)]
        assert log[0]["method"] == "POST" and log[0]["path"] == "/api/models/alice/m/commit/main"
        with suppress(RepositoryNotFoundError):  # two seconds ago it was not there
            api.model_info("alice/m")
        assert json.loads((tmp_path / "faults.jsonl").read_text().splitlines()[1])["kind"] == "stale"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate-limit", "api=many"], "REQUESTS/SECONDS"),
        (["--rate-limit", "apis=1/1"], "no bucket 'apis'"),
        (["--faults", "none.yaml"], "none.yaml cannot be read"),
        (["--host", "0.0.0.0"], "there is no account yet"),
    ],
)
def test_a_serve_that_makes_no_sense_is_a_usage_error(arguments, words, tmp_path) -> None:
    """Exit code 2 and the remedy, no traceback."""
    command = [sys.executable, "-m", "hub_fusion", "hub", "serve", "--root", "hub", "--port", "0", *arguments]
    environment = {"PYTHONPATH": str(PROJECT), "COLUMNS": "500", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_hub_without_accounts_is_not_opened_to_others(host, tmp_path) -> None:
    """Loopback is fine; beyond it nobody could write and everybody read, which is hardly meant."""
    with pytest.raises(ValueError, match="no account yet"):
        serve(tmp_path / "hub", host=host)
    with serve(tmp_path / "hub"):
        pass
    token = add_user(tmp_path / "hub", "alice")
    with serve(tmp_path / "hub", host=host) as hub, socket.create_connection(("localhost", hub.port), timeout=10):
        assert send(f"http://localhost:{hub.port}", "GET", "/api/whoami-v2", token=token).json["name"] == "alice"


def test_a_token_is_nowhere_on_disk(tmp_path) -> None:
    """Only its hash is kept, so that whoever reads a backup cannot act for others."""
    token = add_user(tmp_path / "hub", "alice")
    with serve(tmp_path / "hub", faults=[{"route": "info", "kind": 500}]) as hub:
        api = HfApi(endpoint=hub.url, token=token)
        api.create_repo("alice/m")
        api.upload_file(path_or_fileobj=b"x" * 100_000, path_in_repo="a.bin", repo_id="alice/m")
    files = [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert files and not any(token.encode() in path.read_bytes() for path in files)
