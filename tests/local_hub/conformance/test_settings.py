"""Visibility and gating, and the life of a request for access."""

import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_gate_is_shown_and_its_lists_are_empty(place, new_repo, kind) -> None:
    """A repository without a gate has no lists."""
    repo = new_repo(kind)
    place.api.update_repo_settings(repo, visibility="public", repo_type=kind)
    for gate in ("auto", "manual"):
        place.api.update_repo_settings(repo, gated=gate, repo_type=kind)
        assert place.api.repo_info(repo, repo_type=kind).gated == gate
        for lister in ("pending", "accepted", "rejected"):
            assert not list(getattr(place.api, f"list_{lister}_access_requests")(repo, repo_type=kind))
    with pytest.raises(HfHubHTTPError):
        place.api.accept_access_request(repo, place.account, repo_type=kind)
    place.api.auth_check(repo, repo_type=kind, write=True)
    place.api.update_repo_settings(repo, gated=False, repo_type=kind)
    assert place.api.repo_info(repo, repo_type=kind).gated is False
    with pytest.raises(HfHubHTTPError):
        list(place.api.list_pending_access_requests(repo, repo_type=kind))


def test_visibility_goes_both_ways(place, new_repo) -> None:
    """As the repository itself tells."""
    repo = new_repo()
    assert place.api.model_info(repo).private is True
    place.api.update_repo_settings(repo, visibility="public")
    assert place.api.model_info(repo).private is False
    place.api.update_repo_settings(repo, private=True)
    assert place.api.model_info(repo).private is True


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_request_for_access_goes_through_its_states(api, other, new_repo, push, wire, soon, tmp_path, kind) -> None:
    """Asked for as the page's form does it; each state is one list, and one of them opens the files."""
    of, user = {"repo_type": kind}, other.whoami()["name"]
    repo = new_repo(kind, private=False)
    push(repo, {"a.txt": b"x"}, **of)
    api.update_repo_settings(repo, gated="manual", **of)

    def listed(state: str) -> list[str]:
        found = getattr(api, f"list_{state}_access_requests")(repo, **of)
        return [request.request_id for request in found if request.username == user]

    def refused() -> bool:
        try:
            other.auth_check(repo, **of)
        except GatedRepoError:
            return True
        return False

    assert soon(refused)
    with pytest.raises(GatedRepoError):
        other.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "before", **of)
    prefix = "datasets/" if kind == "dataset" else ""
    wire("POST", f"/{prefix}{repo}/ask-access", {}, token=other.token)
    (request,) = soon(lambda: listed("pending"))
    api.accept_access_request(repo, request_id=request, **of)
    assert soon(lambda: listed("accepted")) and not listed("pending")
    assert soon(lambda: not refused())
    assert other.hf_hub_download(repo, "a.txt", cache_dir=tmp_path / "after", **of)
    with pytest.raises(HfHubHTTPError):
        api.grant_access(repo, user, **of)
    api.cancel_access_request(repo, user, **of)
    assert soon(lambda: listed("pending")) and soon(refused)
    api.reject_access_request(repo, user, rejection_reason="no", **of)
    assert soon(lambda: listed("rejected")) and not listed("pending") + listed("accepted")
    with pytest.raises(HfHubHTTPError):
        api.reject_access_request(repo, user, rejection_reason="no", **of)
