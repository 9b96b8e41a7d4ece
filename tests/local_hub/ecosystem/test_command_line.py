"""The `hf` command, family by family."""

import json
from pathlib import Path

import pytest

from ..conftest import safetensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model to upload."""
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "README.md").write_text("---\nlicense: mit\ntags: [x-y]\n---\n# hello\n")
    (made / "sub" / "m.safetensors").write_bytes(safetensors())
    return made


def test_signing_in_and_out(hf, alice) -> None:
    """With the token in the home, not in the environment."""
    here = {"HF_TOKEN": ""}
    assert "Not logged in" in hf("auth", "whoami", code=1, **here)
    hf("auth", "login", "--token", str(alice.token), **here)
    shown = hf("auth", "whoami", **here)
    assert "alice" in shown and alice.endpoint in shown
    assert hf("auth", "token", **here).strip() == alice.token and "local" in hf("auth", "list", **here)
    assert alice.endpoint in hf("env", **here)
    hf("auth", "logout", **here)
    hf("auth", "login", "--token", "hf_" + "x" * 34, code=1, **here)


def test_repositories(hf, alice, repo) -> None:
    """Made, listed, set, renamed, duplicated, branched, tagged, emptied, deleted."""
    name = f"{repo}-cli"
    hf("repos", "create", name, "--private")
    hf("repos", "create", name, code=1)
    hf("repos", "create", name, "--exist-ok")
    for kind in ("dataset", "space"):
        hf("repos", "create", name, "--type", kind, *(["--space-sdk", "gradio"] if kind == "space" else []))
        assert alice.repo_exists(name, repo_type=kind)
    assert name in hf("repos", "ls", "--search", "-cli", "--format", "json")
    hf("repos", "settings", name, "--public", "--gated", "auto")
    assert (alice.model_info(name).private, alice.model_info(name).gated) == (False, "auto")
    hf("repos", "move", name, f"{name}-2")
    hf("repos", "duplicate", f"{name}-2", f"{name}-3")
    assert alice.model_info(f"{name}-3").sha == alice.model_info(name).sha
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=f"{name}-2")
    hf("repos", "branch", "create", f"{name}-2", "dev")
    hf("repos", "tag", "create", f"{name}-2", "v1", "-m", "first", "--revision", "dev")
    assert "v1" in hf("repos", "tag", "list", f"{name}-2")
    hf("repos", "branch", "delete", f"{name}-2", "dev")
    hf("repos", "delete-files", f"{name}-2", "x.txt")
    assert alice.file_exists(f"{name}-2", "x.txt", revision="v1") and not alice.file_exists(f"{name}-2", "x.txt")
    hf("repos", "tag", "delete", f"{name}-2", "v1", "--yes")
    hf("repos", "delete", f"{name}-2", "--yes")
    assert not alice.repo_exists(name) and "not found" in hf("repos", "delete", f"{name}-2", "--yes", code=1)


def test_files_go_up_and_come_down(hf, alice, repo, folder, tmp_path) -> None:
    """A file, a folder, a pull request, a copy; into the cache, into a folder, by pattern and revision."""
    hf("upload", repo, "model/README.md", "README.md")
    assert f"{repo}/commit/" in hf("upload", repo, "model", ".", "--commit-message", "all of it")
    assert alice.list_repo_commits(repo)[0].title == "all of it"
    alice.create_tag(repo, tag="v1")
    (folder / "late.txt").write_text("late")
    hf("upload", repo, "model", ".", "--create-pr")
    assert alice.file_exists(repo, "late.txt", revision="refs/pr/1") and not alice.file_exists(repo, "late.txt")
    found = Path(hf("download", repo, "--quiet").strip().splitlines()[-1])
    assert (found / "sub" / "m.safetensors").read_bytes() == safetensors()
    hf("download", repo, "--include", "*.md", "--revision", "v1", "--local-dir", "down")
    assert sorted(p.name for p in (tmp_path / "down").iterdir() if p.is_file()) == ["README.md"]
    hf("download", repo, "none.txt", code=1)
    hf("cp", f"hf://{repo}/README.md", "copied.md")
    hf("cp", "copied.md", f"hf://{repo}/copied.md")
    assert (tmp_path / "copied.md").read_text() == (folder / "README.md").read_text()
    assert alice.file_exists(repo, "copied.md")


def test_lists_and_details(hf, alice, repo, folder) -> None:
    """Of all kinds; of the files in a repository; a card."""
    alice.upload_folder(repo_id=repo, folder_path=folder)
    for kind, name in (("dataset", f"{repo}-d"), ("space", f"{repo}-s")):
        alice.create_repo(name, repo_type=kind, space_sdk="static" if kind == "space" else None)
        found = json.loads(hf(f"{kind}s", "ls", "--author", "alice", "--search", name[6:], "--format", "json"))
        assert [item["id"] for item in found] == [name]
        assert json.loads(hf(f"{kind}s", "info", name))["id"] == name
    found = json.loads(hf("models", "ls", "--filter", "x-y", "--author", "alice", "--sort", "created_at",
                          "--limit", "1", "--format", "json"))  # fmt: skip
    assert [item["id"] for item in found] == [repo]
    info = json.loads(hf("models", "info", repo, "--expand", "sha,tags"))
    assert info["sha"] == alice.model_info(repo).sha and "license:mit" in info["tags"]
    assert "m.safetensors" in hf("models", "ls", repo, "--recursive") and "# hello" in hf("models", "card", repo)
    assert "not found" in hf("models", "info", f"{repo}-none", code=1)


def test_discussions(hf, alice, repo) -> None:
    """From the first word to the merge."""
    hf("discussions", "create", repo, "--title", "A question", "--body", "Why?")
    hf("discussions", "comment", repo, "1", "--body", "Because.")
    hf("discussions", "rename", repo, "1", "An answer")
    hf("discussions", "close", repo, "1", "--yes")
    hf("discussions", "reopen", repo, "1", "--yes")
    shown = json.loads(hf("discussions", "info", repo, "1", "--format", "json"))
    assert (shown["title"], shown["status"], shown["author"]) == ("An answer", "open", "alice")
    assert "An answer" in hf("discussions", "list", repo)
    alice.upload_file(path_or_fileobj=b"new\n", path_in_repo="a.txt", repo_id=repo, create_pr=True)
    assert "+new" in hf("discussions", "diff", repo, "2")
    hf("discussions", "merge", repo, "2", "--yes")
    assert alice.file_exists(repo, "a.txt") and "merged" in hf("discussions", "info", repo, "2")


def test_the_cache_is_listed_verified_and_emptied(hf, alice, repo, folder) -> None:
    """Checksums are compared with those that the Hub tells."""
    alice.upload_folder(repo_id=repo, folder_path=folder)
    hf("download", repo)
    assert repo in hf("cache", "ls") and "All checksums match" in hf("cache", "verify", repo)
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=repo)
    hf("download", repo)
    hf("cache", "prune", "--yes")
    hf("cache", "rm", f"model/{repo}", "--yes")
    assert repo not in hf("cache", "ls")


def test_webhooks(hf, alice, repo) -> None:
    """Made, listed, switched off, deleted."""
    hf("webhooks", "create", "--url", "http://127.0.0.1:9/hook", "--watch", f"model:{repo}")
    (hook,) = [found for found in alice.list_webhooks() if found.watched[0].name == repo]
    assert hook.id in hf("webhooks", "ls", "--format", "json") and hook.id in hf("webhooks", "info", hook.id)
    hf("webhooks", "disable", hook.id)
    assert alice.get_webhook(hook.id).disabled
    hf("webhooks", "enable", hook.id)
    hf("webhooks", "update", hook.id, "--url", "http://127.0.0.1:9/other")
    assert alice.get_webhook(hook.id).url == "http://127.0.0.1:9/other"
    hf("webhooks", "delete", hook.id, "--yes")
    assert hook.id not in [found.id for found in alice.list_webhooks()]


def test_spaces_have_variables_secrets_and_a_state(hf, alice, repo) -> None:
    """As far as nothing has to run."""
    name = alice.create_repo(f"{repo}-space", repo_type="space", space_sdk="gradio").repo_id
    hf("spaces", "variables", "add", name, "-e", "BASE=a/b")
    hf("spaces", "secrets", "add", name, "-s", "KEY=s3cret")
    assert "BASE" in hf("spaces", "variables", "ls", name)
    listed = hf("spaces", "secrets", "ls", name)
    assert "KEY" in listed and "s3cret" not in listed
    hf("spaces", "pause", name)
    assert alice.get_space_runtime(name).stage == "PAUSED"
    hf("spaces", "restart", name)
    assert "cpu-basic" in hf("spaces", "hardware")


@pytest.mark.parametrize("command", [["papers", "ls"], ["datasets", "leaderboard", "{repo}"], ["buckets", "ls"]])
def test_what_is_not_served_is_said_in_a_sentence(hf, alice, repo, command) -> None:
    """Not with a traceback, nor with an answer that means something else."""
    alice.create_repo(repo, repo_type="dataset")
    shown = hf(*(part.format(repo=repo) for part in command), code=1)
    assert "served" in shown and "Traceback" not in shown
