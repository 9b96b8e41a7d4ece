"""Names without a namespace lead to a repository where an operator says so, and nowhere else."""

import secrets
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from typer.testing import CliRunner

from hub_fusion.cli import app
from hub_fusion.local_hub import LocalHub, add_short_name


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_short_name_serves_all_that_is_asked_of_the_repository(
    hub: LocalHub, alice: HfApi, nobody, tmp_path, kind
) -> None:
    """Examples and test suites say "gpt2" and "squad" where the repository has a namespace now."""
    short = f"short-{secrets.token_hex(4)}"
    full, at = f"alice/{short}", {"repo_type": kind}
    alice.create_repo(full, **at, space_sdk="static" if kind == "space" else None)
    alice.upload_file(path_or_fileobj=b"x", path_in_repo="a/b.txt", repo_id=full, **at)
    assert not nobody.repo_exists(short, **at)
    done = CliRunner().invoke(app, ["hub", "alias", short, full, "--root", str(hub.root), "--kind", kind])
    assert done.exit_code == 0, done.output
    assert nobody.repo_info(short.upper(), **at).id == full
    assert nobody.repo_info(short, revision="main", files_metadata=True, **at).id == full
    path = nobody.hf_hub_download(short, "a/b.txt", cache_dir=tmp_path, **at)
    assert Path(path).read_bytes() == b"x"
    assert "a/b.txt" in nobody.list_repo_files(short, **at) and nobody.file_exists(short, "a/b.txt", **at)
    assert nobody.list_repo_refs(short, **at).branches and nobody.list_repo_commits(short, **at)
    assert Path(nobody.snapshot_download(short, cache_dir=tmp_path, **at), "a/b.txt").is_file()
    others = {"model", "dataset", "space"} - {kind}
    assert not any(nobody.repo_exists(short, repo_type=other) for other in others)
    alice.delete_repo(full, **at)
    assert not nobody.repo_exists(short, **at)


def test_a_base_named_shortly_is_the_repository_it_leads_to(
    hub: LocalHub, alice: HfApi, nobody: HfApi, repo: str
) -> None:
    """Old cards say ``base_model: gpt2``; their models are children of openai-community/gpt2."""
    short = f"base-{secrets.token_hex(4)}"
    add_short_name(hub.root, short, repo)
    alice.create_repo(f"{repo}-child")
    card = f"---\nbase_model: {short}\n---\n".encode()
    alice.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=f"{repo}-child")
    found = [m.id for m in nobody.list_models(filter=f"base_model:finetune:{repo}")]
    assert found == [f"{repo}-child"]


def test_a_private_repository_is_not_given_away_by_its_short_name(hub: LocalHub, alice, bob, nobody, raw, repo) -> None:
    """The answer to others is that of a name that leads nowhere."""
    short = f"secret-{secrets.token_hex(4)}"
    add_short_name(hub.root, short, repo)
    alice.update_repo_settings(repo, private=True)
    assert alice.model_info(short).id == repo
    for api in (bob, nobody):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(short)
    for path in (f"/api/models/{short}", f"/{short}/resolve/main/a", f"/api/models/{short}/refs"):
        assert "location" not in raw("GET", path).headers


@pytest.mark.parametrize(
    ("short", "full", "kind"),
    [("a/b", "alice/x", "model"), ("", "alice/x", "model"), ("ok", "alice/none", "model"), ("ok", "alice/x", "bucket")],
)
def test_a_short_name_needs_a_repository_and_no_namespace(hub: LocalHub, short: str, full: str, kind: str) -> None:
    """Said when it is made, not when somebody follows it."""
    with pytest.raises(ValueError, match=r"cannot be a short name|there is no"):
        add_short_name(hub.root, short, full, kind=kind)
    done = CliRunner().invoke(app, ["hub", "alias", short, full, "--root", str(hub.root), "--kind", kind])
    assert done.exit_code == 2
