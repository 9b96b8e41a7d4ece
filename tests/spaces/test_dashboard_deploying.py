"""The dashboard goes to the Hub by one command and runs there from what was pushed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from dashboards import Files, upload
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from reader import Reader

from hub_fusion.cli.space import dashboard, free_port
from hub_fusion.errors import HubError
from hub_fusion.hub import Hub
from hub_fusion.local_hub import LocalHub
from hub_fusion.publish.space import Deployment
from hub_fusion.publish.space import deploy as put

ROOT = Path(__file__).parents[2]


@pytest.fixture
def base(hub: LocalHub, acme: HfApi, golden: Files, request: pytest.FixtureRequest) -> str:
    """A base of its own with the golden lineage."""
    upload(acme, name := f"acme/{request.node.name[5:40].strip('_')}", golden)
    return name


@pytest.fixture
def deploy(hub: LocalHub, acme: HfApi, tmp_path: Path) -> Any:
    """Deploys as acme."""

    def run(base: str, space: str = "", **options: bool) -> Deployment:
        place = Hub(hub.url, str(acme.token), tmp_path / "cache")
        return put(place, base, space or f"{base}-dashboard", dashboard(), **options)

    return run


def test_what_was_deployed_is_the_folder_and_the_records(base: str, deploy: Any, hub: LocalHub, acme: HfApi) -> None:
    """Byte for byte; the card names the base, by which the Hub links the two, and so does a variable."""
    done = deploy(base)
    assert (done.created, done.generations, done.private, done.needs_read_token) == (True, 3, False, False)
    info = acme.space_info(done.space)
    assert info.sha == done.commit
    assert info.card_data.models == [base]  # type: ignore[union-attr]
    assert info.sdk == "gradio"
    values = {name: v.value for name, v in acme.get_space_variables(done.space).items()}
    assert values == {"HUB_FUSION_BASE": base, "HF_ENDPOINT": hub.url}
    assert not acme.get_space_secrets(done.space)
    folder = Path(snapshot_download(done.space, repo_type="space", endpoint=hub.url, token=False))
    own = {p.relative_to(dashboard()).as_posix() for p in dashboard().rglob("*") if p.is_file()}
    own = {path for path in own if "__pycache__" not in path}
    assert own <= {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for path in own - {"README.md"}:
        assert (folder / path).read_bytes() == (dashboard() / path).read_bytes()
    data = Reader(base, "http://127.0.0.1:9", snapshot=folder / "snapshot").data
    assert len(data.attempts) == 6
    assert sorted(data.records) == [1, 2, 3]


def test_deploying_again_changes_nothing_or_what_is_new(base: str, deploy: Any, acme: HfApi, golden: Files) -> None:
    """No commit where nothing is new; of a new record that alone; what is no longer part of the folder goes."""
    first = deploy(base)
    again = deploy(base)
    assert (again.changed, again.removed, again.variables, again.commit) == ((), (), {}, None)
    acme.upload_file(path_or_fileobj=b"x", path_in_repo="old.py", repo_id=first.space, repo_type="space")
    golden.records[3]["refusals"][0]["reason"] = "another"
    upload(acme, base, golden)
    third = deploy(base)
    assert third.changed == ("snapshot/fusion/gen-3.json", "snapshot/snapshot.json")
    assert third.removed == ("old.py",)
    assert acme.space_info(first.space).sha == third.commit


def test_a_dry_run_writes_nothing(base: str, deploy: Any, acme: HfApi) -> None:
    """It says what would be written."""
    done = deploy(base, dry_run=True)
    assert {"app.py", "README.md", "snapshot/fusion/index.json"} <= set(done.changed)
    assert done.commit is None
    assert not acme.repo_exists(done.space, repo_type="space")


def test_nothing_of_others_is_overwritten(base: str, deploy: Any, acme: HfApi) -> None:
    """A Space with another app is left alone; one that was only created is used."""
    acme.create_repo("acme/chat", repo_type="space", space_sdk="gradio")
    acme.create_commit("acme/chat", [CommitOperationAdd("app.py", b"print(1)")], commit_message="x", repo_type="space")
    with pytest.raises(HubError, match="something else"):
        deploy(base, "acme/chat")
    acme.create_repo(f"{base}-empty", repo_type="space", space_sdk="gradio")
    assert deploy(base, f"{base}-empty").commit


def test_a_private_base_is_not_shown_to_all(deploy: Any, acme: HfApi, golden: Files) -> None:
    """Its records would be in a public Space; into a private one they go."""
    upload(acme, base := "acme/secret-base", golden)
    acme.update_repo_settings(base, private=True)
    with pytest.raises(HubError, match="--private"):
        deploy(base)
    done = deploy(base, private=True)
    assert (done.private, done.needs_read_token) == (True, True)
    acme.update_repo_settings(done.space, repo_type="space", private=False)
    with pytest.raises(HubError, match="make acme/secret-base-dashboard private"):
        deploy(base, private=True)


@pytest.mark.parametrize(("base", "space"), [("acme", "acme/x"), ("acme/gone", "acme/x"), ("acme/../x", "a/b")])
def test_a_base_that_is_not_there_is_an_error(deploy: Any, base: str, space: str) -> None:
    """Nothing is created."""
    with pytest.raises(HubError):
        deploy(base, space)


def test_a_base_without_a_lineage_can_be_deployed(deploy: Any, acme: HfApi, hub: LocalHub) -> None:
    """The Space then waits for gen-1."""
    acme.create_repo("acme/young")
    done = deploy("acme/young")
    folder = Path(snapshot_download(done.space, repo_type="space", endpoint=hub.url, token=False))
    data = Reader("acme/young", "http://127.0.0.1:9", snapshot=folder / "snapshot").data
    assert (data.attempts, done.generations) == ((), 0)
    assert data.read_at is not None


def test_the_readmes_command_asks_nothing(hub: LocalHub, acme: HfApi, golden: Files, tmp_path: Path) -> None:
    """It prints the address, as JSON with --json, and takes the token from where the client takes it."""
    upload(acme, "acme/base", golden)
    environment = os.environ | {"HF_TOKEN": str(acme.token), "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
    section = (ROOT / "README.md").read_text().split("## Look at it")[1].split("```bash\n")[1].split("```")[0]
    command = section.splitlines()[1].partition("#")[0].split()
    assert command[:3] == ["hub-fusion", "space", "deploy"]
    for arguments, said in ([], "generations: 3"), (["--dry-run", "--json"], '"changed": []'):
        done = subprocess.run([sys.executable, "-m", "hub_fusion", *command[1:], *arguments], env=environment,
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    assert json.loads(done.stdout)["url"] == f"{hub.url}/spaces/acme/growth"
    assert acme.space_info("acme/growth").siblings


@pytest.mark.slow
def test_the_space_runs_where_only_its_requirements_are(
    base: str, deploy: Any, hub: LocalHub, acme: HfApi, tmp_path: Path
) -> None:
    """Pushed, fetched with snapshot_download, in a fresh environment with its own requirements: it shows the lineage.

    Once with the Hub, once with a dead one, where the snapshot is shown.
    """
    done = deploy(base)
    folder = Path(snapshot_download(done.space, repo_type="space", endpoint=hub.url, token=False,
                                    local_dir=tmp_path / "space"))  # fmt: skip
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", folder / "requirements.txt"], check=True)
    assert subprocess.run([python, "-c", "import hub_fusion"], cwd=folder, capture_output=True).returncode == 1
    values = {name: v.value for name, v in acme.get_space_variables(done.space).items()}
    for endpoint in (hub.url, "http://127.0.0.1:9"):
        port = free_port()
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GRADIO_SERVER_PORT": str(port)}
        with (tmp_path / "said.txt").open("w") as said, subprocess.Popen(
            [python, "app.py"], cwd=folder, env=environment | values | {"HF_ENDPOINT": endpoint},
            stdout=said, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            try:
                config = wait_for(f"http://127.0.0.1:{port}/config", process)
            finally:
                process.terminate()
        text = (tmp_path / "said.txt").read_text()
        assert "Traceback" not in text, text
        assert base in config
        assert "gen-3" in config


def wait_for(url: str, process: subprocess.Popen[bytes]) -> str:
    """What a server says once it says something."""
    until = time.monotonic() + 180
    while True:
        assert process.poll() is None, "it has ended"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        except OSError:
            assert time.monotonic() < until, "it does not answer"
            time.sleep(0.2)
