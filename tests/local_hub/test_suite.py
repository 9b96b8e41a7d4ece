"""The conformance suite itself: it runs on a Hub that is served elsewhere, and says what it leaves out."""

import subprocess
import sys
from pathlib import Path

from hub_fusion.local_hub import LocalHub, add_user

from .conftest import PROJECT


def run(folder: Path, *arguments: str) -> str:
    """The end of what pytest prints, in a process of its own."""
    command = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--basetemp={folder}", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_with_an_endpoint_the_suite_runs_there_and_the_rest_is_skipped(hub: LocalHub, tmp_path: Path, alice) -> None:
    """Without a second account what needs one is left out; what it made is gone afterwards."""
    here = Path(__file__).parent
    chosen = [str(here / "conformance" / name) for name in ("test_refs.py", "test_repositories.py", "test_accounts.py")]
    token = add_user(hub.root, "guest")
    shown = run(tmp_path / "1", "--endpoint", hub.url, "--token", token, *chosen, str(here / "test_commits.py"))
    assert "looks inside a local Hub; --endpoint names another" in shown
    assert "needs another account: --other-token" in shown and "failed" not in shown
    assert [model.id for model in alice.list_models(author="guest")] == []


def test_with_a_second_account_nothing_of_the_suite_is_left_out(hub: LocalHub, tmp_path: Path) -> None:
    """But tokens that only a person can make."""
    tokens = ["--token", add_user(hub.root, "host"), "--other-token", add_user(hub.root, "visitor")]
    tokens += ["--read-token", add_user(hub.root, "host", role="read")]
    chosen = Path(__file__).parent / "conformance" / "test_repositories.py"
    shown = run(tmp_path / "2", "--endpoint", hub.url, *tokens, str(chosen))
    assert "skipped" not in shown and "passed" in shown
