"""Visibility and gating, as far as one account alone can see them."""

import pytest
from huggingface_hub.errors import HfHubHTTPError


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
