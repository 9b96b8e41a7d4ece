"""A gradio app becomes a Space: by the API, and by `gradio deploy`."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import environment

pytest.importorskip("gradio")

APP = "import gradio\n\ngradio.Interface(lambda x: x, 'text', 'text').launch()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An app and what it requires."""
    made = tmp_path / "board"
    made.mkdir()
    (made / "app.py").write_text(APP)
    (made / "requirements.txt").write_text("numpy\n")
    return made


def test_a_folder_becomes_a_space(alice, repo, folder) -> None:
    """Made, filled, described by its card, and told how it is run."""
    (folder / "README.md").write_text("---\ntitle: Board\nsdk: gradio\napp_file: app.py\ntags: [leaderboard]\n---\n")
    name = alice.create_repo(f"{repo}-board", repo_type="space", space_sdk="gradio").repo_id
    alice.upload_folder(repo_id=name, repo_type="space", folder_path=folder)
    info = alice.space_info(name)
    assert (info.sdk, info.card_data.title) == ("gradio", "Board") and {"gradio", "leaderboard"} <= set(info.tags)
    assert {s.rfilename for s in info.siblings} == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert alice.get_space_runtime(name).stage == "STOPPED"
    alice.add_space_variable(name, "BASE", repo)
    found = Path(alice.snapshot_download(name, repo_type="space", local_dir=folder.parent / "down"))
    assert (found / "app.py").read_text() == APP


def test_gradio_deploy_makes_a_space_from_a_folder(hub, alice, folder) -> None:
    """Its questions are answered by the card and by Enter; a second call updates the Space."""
    (folder / "README.md").write_text(
        "---\ntitle: deployed\nsdk: gradio\napp_file: app.py\nhardware: cpu-basic\nsecrets: {}\n---\n"
    )
    env = environment(hub.url, folder.parent, HF_TOKEN=str(alice.token), GRADIO_ANALYTICS_ENABLED="False")
    for text in (APP, APP + "# changed\n"):
        (folder / "app.py").write_text(text)
        done = subprocess.run(
            [str(Path(sys.executable).parent / "gradio"), "deploy"],
            env=env, cwd=folder, input="\n" * 20, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        path = alice.hf_hub_download("alice/deployed", "app.py", repo_type="space", local_dir=folder.parent / "down")
        assert Path(path).read_text() == text
    assert alice.space_info("alice/deployed").sdk == "gradio"
